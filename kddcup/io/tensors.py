"""Files of tensors: written atomically, and read without running what is in them."""

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from kddcup.io.atomic import atomic_write, count_bytes
from kddcup.io.errors import UserError, explain_error
from kddcup.io.files import refuse_zip_bomb


def write_tensors(path: str | os.PathLike, value: dict[str, Any]) -> None:
    """Write dicts and lists of tensors and plain values with ``torch.save``."""
    # Given a path, torch.save would write its name, which differs from run to run, into the file.
    with atomic_write(path, count_bytes(value)) as part, open(part, "wb") as file:
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
            refuse_zip_bomb(path)
        with warnings.catch_warnings(action="ignore"):  # of what the error says, or of nothing that matters
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # what is wrong with a file shows itself in many ways
        raise UserError(
            f"{path} is no checkpoint that can be read safely ({explain_error(error)}): {made_by}"
        ) from None
