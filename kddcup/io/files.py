"""Whole writes and safe reads: a file is there in full or not at all, and no read runs code."""

import contextlib
import csv
import errno
import glob
import io
import json
import os
import pickle
import secrets
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kddcup.io.errors import UserError, printable
from kddcup.io.unpickler import DataUnpickler

PARTS = ".*.part"
"""Names of what is being written, or was when a run was killed."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def whole(path: str | os.PathLike, size: int | None = None) -> Iterator[Path]:
    """A temporary path beside ``path``, of a file or a folder to be made there by the block.

    When the block ends well it is flushed to the disk and renamed to ``path``, else removed. Whatever happens
    on the way, ``path`` is what it was, or all that the block wrote.

    Args:
        path: where it will be; its folder is made. A folder there must be empty or absent.
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
            for one in (part, *part.rglob("*")):
                _flush(one)
            os.replace(part, path)
            _flush(path.parent)
        finally:
            _remove(part)
    except OSError as error:
        raise UserError(unwritten(path, error, size)) from None


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


def unwritten(path: Path, error: OSError, size: int | None = None) -> str:
    """What a user is told of a file that cannot be written; ``size`` is the bytes that it needs."""
    if error.errno in _FULL:
        needed = "" if size is None else f"it needs {size:,} bytes, and "
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        return (
            f"{path} cannot be written ({os.strerror(error.errno)}): {needed}{folder} has "
            f"{shutil.disk_usage(folder).free:,} bytes free; make room there, or name another folder"
        )
    return f"{path} cannot be written ({reason(error)}): mend that, or name another folder"


def _nbytes(value: Any) -> int:
    """The size of the arrays or tensors in dicts and lists."""
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_nbytes, value)) if isinstance(value, list) else getattr(value, "nbytes", 0)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` as UTF-8 with LF line ends."""
    content = text.encode()
    with whole(path, len(content)) as part:
        part.write_bytes(content)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as one line of JSON."""
    write_text(path, json.dumps(value, allow_nan=False) + "\n")


def write_pickle(path: str | os.PathLike, value: dict[str, Any]) -> None:
    """Write a dict of lists, strings, numbers and numpy arrays."""
    with whole(path, _nbytes(value)) as part, open(part, "wb") as file:
        pickle.dump(value, file, protocol=4)


def read_pickle(path: str | os.PathLike, made_by: str) -> dict[str, Any]:
    """Read what :func:`write_pickle` wrote.

    Raises:
        UserError: the file is absent, torn, or holds anything but data; ``made_by`` is the command named.
    """
    try:
        with open(path, "rb") as file:
            return DataUnpickler(file).load()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: make it with '{made_by}'") from None
    except Exception as error:  # what is wrong with a file shows itself in many ways
        raise UserError(f"{path} cannot be read ({reason(error)}): make it anew with '{made_by}'") from None


def write_tensors(path: str | os.PathLike, value: dict[str, Any]) -> None:
    """Write dicts and lists of tensors and plain values with ``torch.save``."""
    # Given a path, torch.save would write its name, which differs from run to run, into the file.
    with whole(path, _nbytes(value)) as part, open(part, "wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            # Where a write fails, torch.save complains of where it stands in the file.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read_tensors(path: str | os.PathLike, made_by: str) -> dict[str, Any]:
    """Read a file of ``torch.save``, of any version, onto the CPU; large ones are mapped, not copied.

    Raises:
        UserError: the file is absent, torn, or holds anything but tensors and plain values.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: {made_by}")
    try:
        # Files of the old format cannot be mapped.
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _refuse_bomb(path)
        with warnings.catch_warnings(action="ignore"):  # of what the error says, or of nothing that matters
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # what is wrong with a file shows itself in many ways
        raise UserError(
            f"{path} is no checkpoint that can be read safely ({reason(error)}): {made_by}"
        ) from None


def write_arrays(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays by name, as ``.npz``."""
    with whole(path, _nbytes(arrays)) as part, open(part, "wb") as file:
        np.savez(file, **arrays)


def read_arrays(path: str | os.PathLike, made_by: str) -> dict[str, np.ndarray]:
    """Read what :func:`write_arrays` wrote.

    Raises:
        UserError: the file is absent, torn, or holds anything but arrays; ``made_by`` is the command named.
    """
    try:
        _refuse_bomb(path)
        with np.load(path, allow_pickle=False) as entries:
            arrays = dict(entries)
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("it holds something else than arrays")
        return arrays
    except Exception as error:  # what is wrong with a file shows itself in many ways
        raise UserError(f"{path} cannot be read ({reason(error)}): make it with '{made_by}'") from None


def _refuse_bomb(path: str | os.PathLike) -> None:
    """See that a zip file compresses nothing, as ``torch.save`` and ``numpy.savez`` do not."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > os.path.getsize(path):
            raise ValueError("it would unpack to more than its own size")


def reason(error: Exception) -> str:
    """What an error says, fit for one line of a terminal whoever chose its words."""
    if "weights_only" in str(error):  # PyTorch goes on to advise the unsafe way
        return "it is torn, or holds something other than tensors and plain values"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return printable(str(error))[:300] or type(error).__name__


def read_json(path: str | os.PathLike, made_by: str) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is absent or is not JSON, in which there is no NaN or Infinity; ``made_by`` says
            where it comes from.
    """
    try:
        return json.loads(Path(path).read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {made_by}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({reason(error)}): {made_by}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has {name} for a number")


def csv_text(rows: list[list[Any]]) -> str:
    """Rows as CSV with LF line ends."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
