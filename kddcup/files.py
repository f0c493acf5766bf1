"""Whole writes and safe reads: a file is there in full or not at all, and no read runs code."""

import contextlib
import csv
import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kddcup.errors import UserError

# What a pickle of an array is made of, as numpy 1 and 2 name it.
_ADMITTED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


_NUMBER_TYPES = {"b1", "i4", "i8", "u1", "u8", "f2", "f4", "f8"}


class _ArrayUnpickler(pickle.Unpickler):
    """Admits dicts, lists, strings, numbers and numpy arrays, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not an array of numbers")
        return _number_type if name == "dtype" else super().find_class(module, name)


def _number_type(code: str, *_: object) -> np.dtype:
    """The type of an array of numbers; a state set on other types can crash the interpreter."""
    if code not in _NUMBER_TYPES:
        raise pickle.UnpicklingError(f"it holds an array of type {code!r}, which is not a number")
    return np.dtype(code, copy=True)


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside ``path``; flushed and renamed to it when the block ends well, else removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of one name, so that what a killed run left is overwritten by the next.
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` as UTF-8 with LF line ends."""
    with whole(path) as part:
        part.write_bytes(text.encode())


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as one line of JSON."""
    write_text(path, json.dumps(value) + "\n")


def write_pickle(path: str | os.PathLike, value: dict[str, Any]) -> None:
    """Write a dict of lists, strings, numbers and numpy arrays."""
    with whole(path) as part, open(part, "wb") as file:
        pickle.dump(value, file, protocol=4)


def read_pickle(path: str | os.PathLike, made_by: str) -> dict[str, Any]:
    """Read what :func:`write_pickle` wrote.

    Raises:
        UserError: the file is absent, torn, or holds anything but data; ``made_by`` is the command named.
    """
    try:
        with open(path, "rb") as file:
            return _ArrayUnpickler(file).load()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: make it with '{made_by}'") from None
    except Exception as error:  # what is wrong with a file shows itself in many ways
        raise UserError(f"{path} cannot be read ({_reason(error)}): make it anew with '{made_by}'") from None


def write_tensors(path: str | os.PathLike, value: dict[str, Any]) -> None:
    """Write dicts and lists of tensors and plain values with ``torch.save``."""
    # Given a path, torch.save would write its name, which differs from run to run, into the file.
    with whole(path) as part, open(part, "wb") as file:
        torch.save(value, file)


def read_tensors(path: str | os.PathLike, made_by: str) -> dict[str, Any]:
    """Read a file of ``torch.save``, of any version, onto the CPU; large ones are mapped, not copied.

    Raises:
        UserError: the file is absent, torn, or holds anything but tensors and plain values.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: {made_by}")
    try:
        # Files of the old format cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # what is wrong with a file shows itself in many ways
        raise UserError(
            f"{path} is no checkpoint that can be read safely ({_reason(error)}): {made_by}"
        ) from None


def _reason(error: Exception) -> str:
    if "weights_only" in str(error):  # PyTorch goes on to advise the unsafe way
        return "it is torn, or holds something other than tensors and plain values"
    return " ".join(str(error).split()) or type(error).__name__


def read_json(path: str | os.PathLike, made_by: str) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is absent or is not JSON; ``made_by`` says where it comes from.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {made_by}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): {made_by}") from None


def csv_text(rows: list[list[Any]]) -> str:
    """Rows as CSV with LF line ends."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
