"""The marker that a finished folder gets last: what made it, the sizes and the checksums of its files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash
from tqdm import tqdm

from kddcup.io.errors import UserError
from kddcup.io.files import read_json, write_json

MARKER = "complete.json"
BLOCK = 1 << 20


def write_marker(folder: Path, names: Iterable[str], facts: dict[str, Any]) -> None:
    """Mark a folder as finished.

    Args:
        folder: of the files, which are all written.
        names: of the files, relative to the folder.
        facts: what made them.
    """
    files = {
        name: {"bytes": (folder / name).stat().st_size, "xxh3_128": _sum(folder / name)} for name in names
    }
    write_json(folder / MARKER, {**facts, "files": files})


def read_marker(folder: Path, made_by: str) -> dict[str, Any]:
    """The facts of a finished folder, whose files are there and of the sizes that they had.

    Raises:
        UserError: the folder is unfinished, or a file is absent or torn; ``made_by`` is the command named.
    """
    marker = folder / MARKER
    facts = read_json(marker, f"run '{made_by}'")
    try:
        sizes = {name: int(file["bytes"]) for name, file in facts["files"].items()}
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        raise UserError(f"{marker} does not say what is finished: run '{made_by} --force'") from None
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} does not exist: make it with '{made_by} --force'")
        if path.stat().st_size != size:
            raise UserError(
                f"{path} has {path.stat().st_size:,} bytes and had {size:,} when it was finished: "
                f"make it anew with '{made_by} --force'"
            )
    return facts


def check_sums(folder: Path, made_by: str) -> None:
    """Read a finished folder's files through and compare their checksums.

    Raises:
        UserError: as :func:`read_marker`, or a file's contents are others.
    """
    for name, file in read_marker(folder, made_by)["files"].items():
        if _sum(folder / name) != file.get("xxh3_128"):
            raise UserError(
                f"{folder / name} is not what was written (its checksum differs): "
                f"make it anew with '{made_by} --force'"
            )


def _sum(path: Path) -> str:
    found, size = xxhash.xxh3_128(), path.stat().st_size
    with (
        open(path, "rb") as file,
        tqdm(
            desc=f"sum {path.name}", total=size, unit="B", unit_scale=True, disable=None, leave=False
        ) as bar,
    ):
        while block := file.read(BLOCK):
            found.update(block)
            bar.update(len(block))
    return found.hexdigest()
