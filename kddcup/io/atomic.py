"""Atomic writes: a file or a folder is there in full or not at all."""

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from kddcup.io.errors import UserError, explain_error

PARTS = ".*.part"
"""The pattern of the names of what is being written, or was when a run was killed."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def atomic_write(path: str | os.PathLike, size: int | None = None) -> AbstractContextManager[Path]:
    """Give the path of an empty file beside ``path``, which the block writes.

    When the block ends without an exception, the file is flushed to the disk and renamed to ``path``;
    otherwise it is removed. Whatever happens on the way, ``path`` is as it was, or all that the block wrote.

    Args:
        path: where it will be; its folder is created.
        size: bytes that will be needed, at least, where that is known.

    Raises:
        UserError: it cannot be written; of a full disk it says how much was needed and how much is free.
    """
    return _replace(Path(path), Path.touch, size)


def atomic_folder(path: str | os.PathLike, size: int | None = None) -> AbstractContextManager[Path]:
    """Give the path of an empty folder, which the block fills; otherwise as :func:`atomic_write`.

    A folder that is at ``path`` already must be empty.
    """
    return _replace(Path(path), Path.mkdir, size)


@contextlib.contextmanager
def _replace(path: Path, create: Callable[[Path], None], size: int | None) -> Iterator[Path]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        with _hold_part(path, create) as part:
            yield part
            for written in (part, *part.rglob("*")):
                _flush(written)
            os.replace(part, path)
            _flush(path.parent)
    except OSError as error:
        raise UserError(explain_write_error(path, error, size)) from None


@contextlib.contextmanager
def _hold_part(path: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """Create what will be ``path`` and hold its lock, by which others see that its writer lives."""
    with contextlib.ExitStack() as stack:
        while True:
            # Of a name of its own, since two runs may write one file at once.
            part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
            stack.callback(_remove, part)
            create(part)
            with contextlib.suppress(FileNotFoundError):
                lock = stack.enter_context(_open_lock(part))
                # On a file system without locks nothing is locked, and no leftover is removed.
                with contextlib.suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_EX)
            # Another run may have taken it for a leftover before it was locked.
            if part.exists():
                break
        yield part


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed runs were writing in a folder: of the file ``name``, by default of any."""
    pattern = name if name == "*" else glob.escape(name)
    for left in folder.glob(f".{pattern}.*.part"):
        # An error says that its writer lives, here or on another host; or that this cannot be found out.
        with contextlib.suppress(OSError), _open_lock(left) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(left)


@contextlib.contextmanager
def _open_lock(part: Path) -> Iterator[int]:
    """Open a file or a folder for a lock of flock(), which belongs to the descriptor.

    One of lockf() would be lost when this process closes any other descriptor of the file.
    """
    # On NFS only what is open for writing can be locked.
    descriptor = os.open(part, os.O_RDONLY if part.is_dir() else os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


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
    return f"{path} cannot be written ({explain_error(error)}): fix that, or name another folder"


def count_bytes(value: Any) -> int:
    """Sum the sizes of the arrays or tensors in dicts and lists."""
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(count_bytes, value)) if isinstance(value, list) else getattr(value, "nbytes", 0)
