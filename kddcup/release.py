"""The archives of a finished run, from which anyone gets its submission. Examples:

    python -m kddcup.release --out release
    python -m kddcup.release --out release --verify
    python -m kddcup.release --extract info.tar.gz --to data

Writes info.tar.gz, model1/ckpt.tar.gz, model2/ckpt.tar.gz and MANIFEST.json into the folder ``out``. The same
run gives the same bytes. An archive to be extracted may be a stranger's: links, devices, names that lead out
of its folder, and what unpacks to too much, are refused before anything is written.
"""

import contextlib
import gzip
import hashlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from tqdm import tqdm

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.io.atomic import PARTS, atomic_folder, atomic_write
from kddcup.io.errors import UserError, explain_error, run_script
from kddcup.io.files import read_json, write_json
from kddcup.io.folders import MARKER, read_marker, verify_checksums
from kddcup.rank.blending import best_weight, read_pair
from kddcup.rank.metrics import ndcg_per_query
from kddcup.rank.predictions import check_answered, ranking, read_answers
from kddcup.rank.split import Split
from kddcup.train.folder import find_checkpoint

MANIFEST = "MANIFEST.json"
MADE_BY = "python -m kddcup.release"
MODELS = ("model1", "model2")
PACKAGES = ("torch", "numpy", "scikit-learn", "tokenizers")
MAX_MEMBERS = 1000
"""Of an archive; a run has about ten."""
MAX_BYTES = 1 << 36
"""That an archive unpacks to; the largest, a full-size checkpoint with its optimizer, has less than 2 GB."""
MAX_RATIO = 100
"""Of an archive's contents to its own size; that of pickles is about 5, and gzip's highest is 1,032."""
MAX_HEADER = 1 << 20
"""Bytes of a member's name and attributes, which tarfile reads at once; it reads content piece by piece."""


@dataclass
class ReleaseSettings:
    """Settings of a release.

    Args:
        out: folder of the archives.
        data_dir: folder of the tables and of what stage 1 wrote.
        resources_dir: folder of the predictions.
        checkpoints_dir: of a model, within its folder.
        verify: check the archives in the folder out against its manifest, and make nothing.
        extract: an archive to unpack safely, whole or not at all, and make nothing.
        to: folder to unpack it into, where the archive's own folder must not exist yet.
    """

    out: str = "release"
    data_dir: str = "data"
    resources_dir: str = "external_resources"
    checkpoints_dir: str = "checkpoints"
    verify: bool = False
    extract: str | None = None
    to: str = "."


def archive(path: Path, contents: dict[str, Path]) -> None:
    """Write files as a ``.tar.gz`` whose bytes follow from their names and contents alone.

    Args:
        path: of the archive.
        contents: file by its name in the archive.
    """
    with (
        atomic_write(path, sum(source.stat().st_size for source in contents.values())) as part,
        open(part, "wb") as raw,
        gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, source in sorted(contents.items()):
            entry = tarfile.TarInfo(name)  # of no owner and of 1970
            entry.size = source.stat().st_size
            with (
                open(source, "rb") as file,
                tqdm.wrapattr(
                    file, "read", entry.size, desc=f"pack {name}", disable=None, leave=False
                ) as shown,
            ):
                tar.addfile(entry, shown)


def digest(file: BinaryIO) -> str:
    """The sha256 of an open file, in hexadecimal."""
    return hashlib.file_digest(file, "sha256").hexdigest()


class _Unpacking(gzip.GzipFile):
    """The bytes of an archive for tarfile, which would take a header of any length into memory."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"it has a header of {size} bytes")
        return super().read(size)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tarfile.TarFile]:
    """A ``.tar.gz``, to be read."""
    with _Unpacking(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as tar:
        yield tar


def members(tar: tarfile.TarFile, packed: int) -> Iterator[tarfile.TarInfo]:
    """The members of a stranger's archive, each of which is a plain file or a folder.

    Args:
        tar: the archive.
        packed: its size.

    Raises:
        tarfile.TarError: a member is something else, or lies outside; there are too many, or too large ones.
    """
    names: set[PurePosixPath] = set()
    total = 0
    for entry in tar:
        # No links even within the folder: by them a way out of tarfile's filter was found more than once.
        # A plain file can be sparse too, by its attributes: its size is then not what it unpacks to.
        if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or entry.issparse():
            raise tarfile.TarError(f"{entry.name!r} is a link, a device or a sparse file")
        name = PurePosixPath(entry.name)
        if not is_inside(name) or name in names:
            raise tarfile.TarError(f"{entry.name!r} lies outside the folder, or is there twice")
        names.add(name)
        total += entry.size
        if len(names) > MAX_MEMBERS:
            raise tarfile.TarError(f"it has more than {MAX_MEMBERS:,} members")
        if entry.size < 0 or total > min(MAX_BYTES, MAX_RATIO * packed):
            raise tarfile.TarError(f"{packed:,} bytes would unpack to {total:,} and more")
        yield entry


def is_inside(name: PurePosixPath) -> bool:
    """Whether a name leads from a folder to something within it."""
    return not name.is_absolute() and ".." not in name.parts


def described(path: Path) -> dict[str, Any]:
    """Size and sha256 of an archive and of its members."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        sums = {"bytes": size, "sha256": digest(file)}
    with opened(path) as tar:
        sums["members"] = {
            entry.name: {"bytes": entry.size, "sha256": digest(tar.extractfile(entry))}
            for entry in members(tar, size)
            if entry.isfile()
        }
    return sums


def extract(path: Path, folder: Path) -> None:
    """Unpack a stranger's archive of one folder, whole or not at all.

    Args:
        path: of the archive.
        folder: where the archive's own folder will be.

    Raises:
        UserError: the archive is absent, torn or not safe; its folder is there already, or cannot be written.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: name an archive")
    try:
        with opened(path) as tar:
            entries = list(members(tar, path.stat().st_size))
    except Exception as error:  # what is wrong with a file shows itself in many ways
        raise UserError(f"{path} cannot be unpacked safely ({explain_error(error)}): get it again") from None
    names = {entry: PurePosixPath(entry.name) for entry in entries}
    below = [entry for entry, name in names.items() if len(name.parts) > 1]
    tops = {name.parts[0] for name in names.values() if name.parts}
    if len(tops) != 1 or not all(entry.isdir() or entry in below for entry in entries):
        raise UserError(f"{path} holds something else than one folder: get an archive of '{MADE_BY}'")
    (top,) = tops
    place = folder / top
    if os.path.lexists(place):
        raise UserError(f"{place} exists already: move it away, or name another folder with '--to'")
    # Of the time at which they are written, as a stranger's may be none.
    below = [entry.replace(name=str(names[entry].relative_to(top)), mtime=None) for entry in below]
    with atomic_folder(place, sum(entry.size for entry in entries)) as part, opened(path) as tar:
        tar.extractall(part, tqdm(below, desc="unpack", disable=None), filter="data")
    print(f"{len(below)} members of {path}: {place}")


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


def info_files(info: Path) -> dict[str, Path]:
    """What stage 1 finished, file by its name in the archive; nothing else that lies there.

    Raises:
        UserError: it is unfinished, or a file is not what was written.
    """
    made_by = f"python preprocess.py --data_dir {info.parent}"
    refuse_parts(info, made_by)
    verify_checksums(info, made_by)
    names = (*read_marker(info, made_by)["files"], MARKER)
    return {f"info/{name}": info / name for name in names}


def refuse_parts(folder: Path, made_by: str) -> None:
    """See that no write into a folder was interrupted, or is under way.

    Raises:
        UserError: one was; ``made_by`` is the command named.
    """
    for part in sorted(folder.rglob(PARTS)):
        raise UserError(f"{part} is of a run that did not end: finish '{made_by}', or delete the file")


def release(settings: ReleaseSettings) -> None:
    """Make the archives and the manifest.

    Raises:
        UserError: a part of the run is absent or unfinished.
    """
    out = Path(settings.out)
    contents = {"info.tar.gz": info_files(Path(settings.data_dir) / "info")}
    runs = {}
    for model in MODELS:
        refuse_parts(Path(model) / settings.checkpoints_dir, f"cd {model}; python train.py")
        checkpoint = find_checkpoint(stages.find(model), str(Path(model) / settings.checkpoints_dir), None)
        contents[f"{model}/ckpt.tar.gz"] = {f"ckpt/{checkpoint.path.name}": checkpoint.path}
        runs[model] = {
            "checkpoint": checkpoint.path.name,
            "size": checkpoint.config.size,
            "seed": checkpoint.config.training.get("seed"),
            "training": checkpoint.config.training,
        }
    result = reached(settings)
    for name, files in contents.items():
        archive(out / name, files)
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
    # Closed before an error is shown.
    with tqdm(archives.items(), desc="verify", disable=None) as bar:
        for name, expected in bar:
            path = folder / name
            if not is_inside(PurePosixPath(name)):
                raise UserError(
                    f"{folder / MANIFEST} names {name!r}, which lies outside {folder}: get it again"
                )
            if not path.is_file():
                raise UserError(f"{path} does not exist: {folder / MANIFEST} names it; get it again")
            try:
                found = described(path)
            except Exception as error:  # what is wrong with a file shows itself in many ways
                raise UserError(
                    f"{path} is no whole archive ({explain_error(error)}): get it again"
                ) from None
            if found != expected:
                raise UserError(
                    f"{path} is not the one that {folder / MANIFEST} names "
                    f"(sha256 {found['sha256']}): get it again"
                )
    print(f"{len(archives)} archives are as {folder / MANIFEST} says")


def main() -> None:
    """Make or verify a release, or unpack an archive of one."""
    settings = parse_settings(ReleaseSettings, __doc__)
    if settings.extract is not None:
        extract(Path(settings.extract), Path(settings.to))
    elif settings.verify:
        verify(Path(settings.out))
    else:
        release(settings)


if __name__ == "__main__":
    run_script(main)
