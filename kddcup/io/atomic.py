"""Atomic writes: a file or a folder is there in full or not at all."""

import contextlib
import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kddcup.io.errors import UserError, explain_error

PARTS = ".*.part"
"""The pattern of the names of what is being written, or was when a run was killed."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, size: int | None = None) -> Iterator[Path]:
    """Give a temporary path beside ``path``, of a file or a folder that the block writes.

    When the block ends without an exception, what it wrote is flushed to the disk and renamed to ``path``;
    otherwise it is removed. Whatever happens on the way, ``path`` is as it was, or all that the block wrote.

    Args:
        path: where it will be; its folder is created. A folder there must be empty or absent.
        size: bytes that will be needed, at least, where that is known.

    Raises:
        UserError: it cannot be written; of a full disk it says how much was needed and how much is free.
    """
    path = Path(path)
    # Of a name of its own, since two runs may write one file at once, perhaps from two machines.
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        try:
            yield part
            for written in (part, *part.rglob("*")):
                _flush(written)
            os.replace(part, path)
            _flush(path.parent)
        finally:
            _remove(part)
    except OSError as error:
        raise UserError(explain_write_error(path, error, size)) from None


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed runs were writing in a folder: of the file ``name``, by default of any."""
    pattern = name if name == "*" else glob.escape(name)
    for left in folder.glob(f".{pattern}.*.part"):
        if not Path("/proc", left.name.split(".")[-2].split("-")[0]).exists():
            _remove(left)


def _remove(part: Path) -> None:
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part)
    else:
        part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems do not flush folders by themselves.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.EBADF)):
            raise
    finally:
        os.close(descriptor)


def explain_write_error(path: Path, error: OSError, size: int | None = None) -> str:
    """Say why a file cannot be written and what to do; ``size`` is the bytes that it needs."""
    if error.errno in _FULL:
        needed = "" if size is None else f"it needs {size:,} bytes, and "
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        return (
            f"{path} cannot be written ({os.strerror(error.errno)}): {needed}{folder} has "
            f"{shutil.disk_usage(folder).free:,} bytes free; make room there, or name another folder"
        )
    return f"{path} cannot be written ({explain_error(error)}): mend that, or name another folder"


def count_bytes(value: Any) -> int:
    """Sum the sizes of the arrays or tensors in dicts and lists."""
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(count_bytes, value)) if isinstance(value, list) else getattr(value, "nbytes", 0)
