"""A folder that one run writes: its lock, and the marker that it gets when all of it is written."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash
from tqdm import tqdm

from kddcup.io.atomic import explain_write_error
from kddcup.io.errors import UserError
from kddcup.io.files import read_json, write_json

LOCK = ".lock"
"""The name of the file in a folder that is locked while a run writes there."""
MARKER = "complete.json"
"""The name of the file that a folder gets last: what wrote it, the sizes and the checksums of its files."""
_BLOCK = 1 << 20


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder, which is created if need be. The lock dies with this process, however that ends.

    Raises:
        UserError: another process holds it, or it cannot be written to.
    """
    path = folder / LOCK
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path, "a+b", buffering=0))
            # Of the process alone: a lock of flock() would live on in forked workers.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode().strip() or "just started"
            raise UserError(
                f"{folder} is being written by another run ({holder}): "
                "wait until it ends, or name another folder"
            ) from None
        except OSError as error:
            raise UserError(explain_write_error(path, error)) from None
        yield


def write_marker(folder: Path, names: Iterable[str], facts: dict[str, Any]) -> None:
    """Mark a folder as finished.

    Args:
        folder: of the files, which are all written.
        names: of the files, relative to the folder.
        facts: what wrote them.
    """
    files = {
        name: {"bytes": (folder / name).stat().st_size, "xxh3_128": _hash_file(folder / name)}
        for name in names
    }
    write_json(folder / MARKER, {**facts, "files": files})


def read_marker(folder: Path, made_by: str) -> dict[str, Any]:
    """Read the facts of a finished folder, whose files are there and of the sizes that they had.

    Raises:
        UserError: the folder is unfinished, or a file is absent or torn; ``made_by`` is the command named.
    """
    marker = folder / MARKER
    facts = read_json(marker, f"run '{made_by}'")
    match facts:
        case {"files": dict(files)} if all(map(_is_entry, files, files.values())):
            pass
        case _:
            raise UserError(f"{marker} does not say what is finished: run '{made_by} --force'")
    for name, file in files.items():
        path, size = folder / name, file["bytes"]
        if not path.is_file():
            raise UserError(f"{path} does not exist: make it with '{made_by} --force'")
        if path.stat().st_size != size:
            raise UserError(
                f"{path} has {path.stat().st_size:,} bytes and had {size:,} when it was finished: "
                f"make it anew with '{made_by} --force'"
            )
    return facts


def _is_entry(name: str, file: Any) -> bool:
    """Whether a marker names a file within its folder and says how large it is."""
    path = PurePosixPath(name)
    is_inside = not path.is_absolute() and ".." not in path.parts
    return is_inside and isinstance(file, dict) and isinstance(file.get("bytes"), int)


def verify_checksums(folder: Path, made_by: str) -> None:
    """Read a finished folder's files through and compare their checksums.

    Raises:
        UserError: as :func:`read_marker`, or a file's contents are others.
    """
    for name, file in read_marker(folder, made_by)["files"].items():
        if _hash_file(folder / name) != file.get("xxh3_128"):
            raise UserError(
                f"{folder / name} is not what was written (its checksum differs): "
                f"make it anew with '{made_by} --force'"
            )


def _hash_file(path: Path) -> str:
    found, size = xxhash.xxh3_128(), path.stat().st_size
    with (
        open(path, "rb") as file,
        tqdm(
            desc=f"sum {path.name}", total=size, unit="B", unit_scale=True, disable=None, leave=False
        ) as bar,
    ):
        while block := file.read(_BLOCK):
            found.update(block)
            bar.update(len(block))
    return found.hexdigest()
