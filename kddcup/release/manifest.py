"""The manifest of a release: which archives it has, and which run they are from."""

import re
from importlib import metadata
from pathlib import Path
from typing import Any

from kddcup import stages
from kddcup.io.atomic import PARTS
from kddcup.io.errors import UserError
from kddcup.io.files import read_json, write_json
from kddcup.io.folders import MARKER, read_marker, verify_checksums
from kddcup.rank.blend import Blend
from kddcup.rank.logistic import LOGISTIC, LogisticRanker
from kddcup.release.archive import (
    CHECKPOINTS,
    INFO,
    MANIFEST,
    SEARCH,
    check_present,
    is_release_file,
    pack,
    summarize,
)
from kddcup.train.checkpoint import Checkpoint
from kddcup.train.folder import find_checkpoint

MADE_BY = "python -m kddcup.release"
PACKAGES = ("torch", "numpy", "scikit-learn", "tokenizers")
"""The packages whose versions the manifest has."""
_ARCHIVE_NAME = re.compile(rf"{INFO}\.tar\.gz|{SEARCH}\.tar\.gz|[\w-]+/{CHECKPOINTS}\.tar\.gz", re.ASCII)


def write_release(out: Path, data_dir: Path, resources_dir: Path, checkpoints_dir: str) -> None:
    """Write the archives of stage 1 and of what is blended, and then the manifest.

    Args:
        out: folder of the archives.
        data_dir: folder of the tables and of what stage 1 wrote.
        resources_dir: folder of ``blend.json``, and of the baseline's regressions.
        checkpoints_dir: of a stage, within its folder.

    Raises:
        UserError: a part of the run is absent or unfinished.
    """
    contents = {f"{INFO}.tar.gz": find_info_files(data_dir / INFO)}
    runs = {}
    blend = Blend.read(resources_dir)
    blended = {model.name for model in blend.models}
    for stage in stages.STAGES:
        if stage.name not in blended:
            continue
        folder = Path(stage.name) / checkpoints_dir
        refuse_parts(folder, f"cd {stage.name}; python train.py")
        checkpoint = find_checkpoint(stage, str(folder), None)
        contents[f"{stage.name}/{CHECKPOINTS}.tar.gz"] = {
            f"{CHECKPOINTS}/{checkpoint.path.name}": checkpoint.path
        }
        runs[stage.name] = describe_run(checkpoint)
    if "logistic" in blended:
        LogisticRanker.read(resources_dir / LOGISTIC)
        contents[f"logistic/{CHECKPOINTS}.tar.gz"] = {f"{CHECKPOINTS}/{LOGISTIC}": resources_dir / LOGISTIC}
    for name, files in contents.items():
        pack(out / name, files)
    manifest = {
        "archives": {name: summarize(out / name) for name in contents},
        "runs": runs,
        "blend": blend.describe(resources_dir),
        "packages": {package: metadata.version(package) for package in PACKAGES},
    }
    write_json(out / MANIFEST, manifest)
    print(f"{len(contents)} archives: {out}")


def describe_run(checkpoint: Checkpoint) -> dict[str, Any]:
    """Describe the run that made a checkpoint."""
    return {
        "checkpoint": checkpoint.path.name,
        "size": checkpoint.config.size,
        "seed": checkpoint.config.training.get("seed"),
        "training": checkpoint.config.training,
    }


def find_info_files(info: Path) -> dict[str, Path]:
    """Find what stage 1 finished, file by its name in the archive; nothing else that lies there.

    Raises:
        UserError: it is unfinished, or a file is not what was written.
    """
    made_by = f"python preprocess.py --data_dir {info.parent}"
    refuse_parts(info, made_by)
    verify_checksums(info, made_by)
    files = {f"{INFO}/{name}": info / name for name in (*read_marker(info, made_by)["files"], MARKER)}
    for name in files:
        if not is_release_file(name):
            raise UserError(
                f"{info / MARKER} names {name!r}, which stage 1 does not write: run '{made_by} --force'"
            )
    return files


def refuse_parts(folder: Path, made_by: str) -> None:
    """See that no write into a folder was interrupted, or is under way.

    Raises:
        UserError: one was; ``made_by`` is the command named.
    """
    for part in sorted(folder.rglob(PARTS)):
        raise UserError(f"{part} is of a run that did not end: finish '{made_by}', or delete the file")


def verify(folder: Path) -> None:
    """Compare a folder of archives with its manifest.

    Raises:
        UserError: an archive is absent or differs.
    """
    manifest = folder / MANIFEST
    archives = read_summaries(manifest)
    for name, expected in archives.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} does not exist: {manifest} names it; get it again")
        found = summarize(folder / name)
        if found != expected:
            raise UserError(
                f"{folder / name} is not the one that {manifest} names (its sha256 is {found['sha256']}): "
                "get it again"
            )
    print(f"{len(archives)} archives are as {manifest} says")


def find_summary(path: Path) -> dict[str, Any] | None:
    """Find what a manifest beside an archive, or in the folder above, says of it; None where there is none.

    Args:
        path: of the archive.

    Raises:
        UserError: the archive is absent; a manifest cannot be read, or no manifest names the archive.
    """
    check_present(path)
    folder = path.parent.resolve()
    manifests = [place / MANIFEST for place in (folder, folder.parent) if (place / MANIFEST).is_file()]
    for manifest in manifests:
        archives = read_summaries(manifest)
        name = (folder / path.name).relative_to(manifest.parent).as_posix()
        if name in archives:
            return archives[name]
    if manifests:
        raise UserError(
            f"{manifests[0]} does not name {path}: put the archive where the manifest has it, or move the "
            "manifest away if it is of something else"
        )
    return None


def read_summaries(manifest: Path) -> dict[str, dict[str, Any]]:
    """Read what a manifest says of each archive, by the archive's name relative to the manifest's folder.

    Raises:
        UserError: it is absent, is no manifest, or names an archive that no release has.
    """
    content = read_json(manifest, f"make it with '{MADE_BY}'")
    archives = content.get("archives") if isinstance(content, dict) else None
    if not isinstance(archives, dict) or not archives:
        raise UserError(f"{manifest} names no archives: make it with '{MADE_BY}'")
    for name in archives:
        if not _ARCHIVE_NAME.fullmatch(name):
            raise UserError(f"{manifest} names {name[:100]!r}, which no release has: get it again")
    return archives
