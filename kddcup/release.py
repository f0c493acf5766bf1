"""The archives of a finished run, from which anyone gets its submission. Examples:

    python -m kddcup.release --out release
    python -m kddcup.release --out release --verify

Writes info.tar.gz, model1/ckpt.tar.gz, model2/ckpt.tar.gz and MANIFEST.json into the folder ``out``. The same
run gives the same bytes.
"""

import gzip
import hashlib
import tarfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from kddcup.blending import best_weight, read_pair
from kddcup.checkpoint import find_checkpoint
from kddcup.config import parse_settings
from kddcup.errors import UserError, run_script
from kddcup.files import read_json, whole, write_json
from kddcup.metrics import ndcg_per_query
from kddcup.predictions import check_answered, ranking, read_answers
from kddcup.scoring import Split

MANIFEST = "MANIFEST.json"
MADE_BY = "python -m kddcup.release"
MODELS = ("model1", "model2")
PACKAGES = ("torch", "numpy", "scikit-learn", "tokenizers")


@dataclass
class ReleaseSettings:
    """Settings of a release.

    Args:
        out: folder of the archives.
        data_dir: folder of the tables and of what stage 1 wrote.
        resources_dir: folder of the predictions.
        checkpoints_dir: of a model, within its folder.
        verify: check the archives in the folder out against its manifest, and make nothing.
    """

    out: str = "release"
    data_dir: str = "data"
    resources_dir: str = "external_resources"
    checkpoints_dir: str = "checkpoints"
    verify: bool = False


def archive(path: Path, members: dict[str, Path]) -> None:
    """Write files as a ``.tar.gz`` whose bytes follow from their names and contents alone.

    Args:
        path: of the archive.
        members: file by its name in the archive.
    """
    with (
        whole(path) as part,
        open(part, "wb") as raw,
        gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, source in sorted(members.items()):
            entry = tarfile.TarInfo(name)  # of no owner and of 1970
            entry.size = source.stat().st_size
            with open(source, "rb") as file:
                tar.addfile(entry, file)


def digest(file: BinaryIO) -> str:
    """The sha256 of an open file, in hexadecimal."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def described(path: Path) -> dict[str, Any]:
    """Size and sha256 of an archive and of its members."""
    with open(path, "rb") as file:
        sums = {"bytes": path.stat().st_size, "sha256": digest(file)}
    with tarfile.open(path) as tar:
        members = {
            entry.name: {"bytes": entry.size, "sha256": digest(tar.extractfile(entry))}
            for entry in tar
            if entry.isfile()
        }
    return {**sums, "members": members}


def reached(settings: ReleaseSettings) -> dict[str, Any]:
    """The weight of the blend, and NDCG@5 on valid of both models and of the blend."""
    folder = Path(settings.resources_dir)
    answers_path = Split(Path(settings.data_dir), "valid").answers
    model1, model2 = read_pair(folder, "valid")
    answers = read_answers(answers_path)
    check_answered(model1, answers, (folder / "valid_pred_model1.json", answers_path))
    weight, blended = best_weight(model1, model2, answers)
    single = {
        name: float(ndcg_per_query(ranking(one), answers).mean())
        for name, one in zip(MODELS, (model1, model2), strict=True)
    }
    return {"weight": weight, "ndcg@5 on valid": {**single, "blend": blended}}


def release(settings: ReleaseSettings) -> None:
    """Make the archives and the manifest.

    Raises:
        UserError: a part of the run is absent.
    """
    out, info = Path(settings.out), Path(settings.data_dir) / "info"
    if not info.is_dir():
        raise UserError(f"{info} does not exist: run 'python preprocess.py'")
    files = sorted(path for path in info.rglob("*") if path.is_file())
    contents = {"info.tar.gz": {f"info/{path.relative_to(info)}": path for path in files}}
    runs = {}
    for model in MODELS:
        checkpoint = find_checkpoint(model, str(Path(model) / settings.checkpoints_dir), None)
        contents[f"{model}/ckpt.tar.gz"] = {f"ckpt/{checkpoint.path.name}": checkpoint.path}
        runs[model] = {
            "checkpoint": checkpoint.path.name,
            "size": checkpoint.config.size,
            "seed": checkpoint.config.training.get("seed"),
            "training": checkpoint.config.training,
        }
    result = reached(settings)
    for name, members in contents.items():
        archive(out / name, members)
    manifest = {
        "archives": {name: described(out / name) for name in contents},
        "runs": runs,
        "packages": {package: metadata.version(package) for package in PACKAGES},
        **result,
    }
    write_json(out / MANIFEST, manifest)
    print(f"{len(contents)} archives: {out}")


def verify(folder: Path) -> None:
    """Check a folder of archives against its manifest.

    Raises:
        UserError: an archive is absent or differs.
    """
    manifest = read_json(folder / MANIFEST, f"make it with '{MADE_BY}'")
    archives = manifest.get("archives") if isinstance(manifest, dict) else None
    if not isinstance(archives, dict) or not archives:
        raise UserError(f"{folder / MANIFEST} names no archives: make it with '{MADE_BY}'")
    for name, expected in archives.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} does not exist: {folder / MANIFEST} names it; get it again")
        try:
            found = described(path)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(f"{path} is no whole archive ({error}): get it again") from None
        if found != expected:
            raise UserError(
                f"{path} is not the one that {folder / MANIFEST} names "
                f"(sha256 {found['sha256']}): get it again"
            )
    print(f"{len(archives)} archives are as {folder / MANIFEST} says")


def main() -> None:
    """Make or verify a release."""
    settings = parse_settings(ReleaseSettings, __doc__)
    if settings.verify:
        verify(Path(settings.out))
    else:
        release(settings)


if __name__ == "__main__":
    run_script(main)
