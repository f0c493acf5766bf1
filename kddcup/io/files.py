"""Text, CSV, JSON, pickles and arrays: written atomically, and read without running what is in them."""

import csv
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from kddcup.io.atomic import atomic_write, count_bytes
from kddcup.io.errors import UserError, explain_error
from kddcup.io.unpickler import read_data


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write ``text`` as UTF-8 with LF line ends."""
    content = text.encode()
    with atomic_write(path, len(content)) as part:
        part.write_bytes(content)


def format_csv(rows: list[list[Any]]) -> str:
    """Format rows as CSV with LF line ends."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as one line of JSON."""
    write_text(path, json.dumps(value, allow_nan=False) + "\n")


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
        raise UserError(f"{path} is not JSON ({explain_error(error)}): {made_by}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it has {name} for a number")


def write_pickle(path: str | os.PathLike, value: dict[str, Any]) -> None:
    """Write a dict of lists, strings, numbers and numpy arrays."""
    with atomic_write(path, count_bytes(value)) as part, open(part, "wb") as file:
        pickle.dump(value, file, protocol=4)


def read_pickle(path: str | os.PathLike, made_by: str) -> dict[str, Any]:
    """Read what :func:`write_pickle` wrote.

    Raises:
        UserError: the file is absent, torn, or holds anything but data; ``made_by`` is the command named.
    """
    try:
        with open(path, "rb") as file:
            return read_data(file)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: make it with '{made_by}'") from None
    except (OSError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} cannot be read ({explain_error(error)}): make it anew with '{made_by}'"
        ) from None


def write_arrays(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays by name, as ``.npz``."""
    with atomic_write(path, count_bytes(arrays)) as part, open(part, "wb") as file:
        np.savez(file, **arrays)


def read_arrays(path: str | os.PathLike, made_by: str) -> dict[str, np.ndarray]:
    """Read what :func:`write_arrays` wrote.

    Raises:
        UserError: the file is absent, torn, or holds anything but arrays; ``made_by`` is the command named.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        # numpy.savez compresses nothing.
        if unpacked > os.path.getsize(path):
            raise ValueError("it would unpack to more than its own size")
        with np.load(path, allow_pickle=False) as entries:
            arrays = dict(entries)
    except Exception as error:  # what is wrong with a file shows itself in many ways
        raise UserError(f"{path} cannot be read ({explain_error(error)}): make it with '{made_by}'") from None
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise UserError(f"{path} holds something other than arrays: make it with '{made_by}'")
    return arrays
