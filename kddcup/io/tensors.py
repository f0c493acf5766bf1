"""Files of tensors: written atomically, and read without running what is in them."""

import io
import math
import mmap
import os
import pickle
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from kddcup.io.atomic import atomic_write, count_bytes
from kddcup.io.errors import UserError, explain_error
from kddcup.io.unpickler import Machine, refuse

_ZIP = b"PK\x03\x04"
_MAX_DIMENSIONS = 8
_STORAGES = {
    f"{name}Storage": dtype.itemsize
    for name, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
    }.items()
}
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


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

    Its pickle is read by a machine of our own before PyTorch reads it, which refuses code, but neither a
    set of ten billion numbers nor a key that takes years to hash.

    Raises:
        UserError: the file is absent or torn, or holds anything but plain values in dicts, lists and tuples,
            and tensors that are dense in it; ``made_by`` says where it comes from.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: {made_by}")
    try:
        # As PyTorch tells the one format from the other.
        with open(path, "rb") as file:
            zipped = file.read(len(_ZIP)) == _ZIP
        _check_zip(path) if zipped else _check_old_format(path)
        return _load(path, zipped)
    except (OSError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} is not a checkpoint that can be read safely ({explain_error(error)}): {made_by}"
        ) from None


def _load(path: str | os.PathLike, zipped: bool) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # of what the error says, or of nothing that matters
            # Files of the old format cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # what is wrong with a file shows itself in many ways
        if "weights_only" in str(error):  # PyTorch goes on to advise the unsafe way
            refuse("it is torn, or holds something other than tensors and plain values")
        raise pickle.UnpicklingError(explain_error(error)) from None


def _check_zip(path: str | os.PathLike) -> None:
    size = os.path.getsize(path)
    try:
        # Read as PyTorch reads it, lest it finds another pickle than we do.
        records = torch._C.PyTorchFileReader(os.fspath(path))
        if sum(map(records.get_record_size, records.get_all_records())) > size:
            refuse("it would unpack to more than its own size")
        content = records.get_record("data.pkl")
    except RuntimeError as error:
        raise pickle.UnpicklingError(explain_error(error)) from None
    _StateReader(io.BytesIO(content), size).load()


def _check_old_format(path: str | os.PathLike) -> None:
    size = os.path.getsize(path)
    if size == 0:
        refuse("it is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        # A magic number, the version of the format, facts of the system, the content, the names of storages.
        for _ in range(5):
            _StateReader(stream, size).load()


@dataclass(frozen=True)
class _StorageType:
    """Stands for a class of storages."""

    item_size: int


@dataclass(frozen=True)
class _Storage:
    """Stands for numbers in the file."""

    count: int


class _Tensor:
    """Stands for a tensor."""


class _OrderedDict(dict):
    """Stands for an ``OrderedDict``, of whose attributes a module's ``_metadata`` is the one that is set."""

    def build(self, state: Any) -> None:
        """Check that no method gets hidden by an attribute."""
        if not isinstance(state, dict) or set(state) != {"_metadata"}:
            refuse("it sets attributes of a dict")


class _StateReader(Machine):
    """Reads the pickle of a checkpoint; in the place of its tensors it gives stand-ins.

    Args:
        stream: the pickle.
        size: of the file, in which the numbers of all tensors are.
    """

    def __init__(self, stream: BinaryIO | mmap.mmap, size: int) -> None:
        names = {
            "collections OrderedDict": _make_dict,
            "torch Size": _make_size,
            "torch._utils _rebuild_tensor_v2": _make_tensor,
            "torch._utils _rebuild_parameter": _make_parameter,
            **{f"torch {name}": _StorageType(item_size) for name, item_size in _STORAGES.items()},
        }
        super().__init__(stream, names, (tuple, _Tensor), self._find_storage)
        self._room = size
        self._storages: dict[str, tuple[_StorageType, int]] = {}

    def _find_storage(self, identity: Any) -> _Storage:
        match identity:
            # The old format has a sixth entry, for the views of its first years.
            case ("storage", _StorageType() as kind, str(key), str(), int(count), *view) if view in (
                [],
                [None],
            ):
                if key not in self._storages:
                    self._storages[key] = kind, count
                    self._room -= kind.item_size * count
                if count < 0 or self._room < 0 or self._storages[key] != (kind, count):
                    refuse(f"the numbers of its storage {key} are not in it")
                return _Storage(count)
            case _:
                refuse("it refers to something other than the numbers of a tensor")


def _make_dict(arguments: tuple) -> _OrderedDict:
    if arguments:
        refuse("it has an OrderedDict that begins with other things than items")
    return _OrderedDict()


def _make_size(arguments: tuple) -> tuple:
    match arguments:
        case (tuple(sizes),) if _are_sizes(sizes):
            return ()
        case _:
            refuse("it has a torch.Size that is not of a few small numbers")


def _make_tensor(arguments: tuple) -> _Tensor:
    match arguments:
        case (_Storage(count), int(offset), tuple(shape), tuple(strides), bool(), dict(hooks)) if (
            offset >= 0 and _are_sizes(shape) and _are_sizes(strides) and len(shape) == len(strides)
        ):
            if hooks or offset + math.prod(shape) > count or not _is_dense(shape, strides):
                refuse(f"it has a tensor {list(shape)} that is not dense in its {count:,} numbers")
            return _Tensor()
        case _:
            refuse("it has a tensor that is not dense")


def _make_parameter(arguments: tuple) -> _Tensor:
    match arguments:
        case (_Tensor() as tensor, bool(), dict(hooks)) if not hooks:
            return tensor
        case _:
            refuse("it has a parameter that is not a tensor")


def _are_sizes(values: tuple) -> bool:
    return len(values) <= _MAX_DIMENSIONS and all(
        isinstance(value, int) and 0 <= value < 1 << 48 for value in values
    )


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the numbers of a tensor lie side by side, its dimensions in whatever order."""
    if 0 in shape:
        return True
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def check_weights(value: object, dtype: torch.dtype = torch.float32) -> None:
    """Check that a value of a file can be copied into a tensor: a tensor of finite numbers of its kind.

    Args:
        value: of the file.
        dtype: of the tensor; that of the file may be another floating-point one, where this one is.

    Raises:
        ValueError: it cannot; the message goes after the value's name.
    """
    if not isinstance(value, Tensor):
        raise ValueError("is not a tensor")
    if value.dtype != dtype and not (dtype in _FLOATS and value.dtype in _FLOATS):
        raise ValueError(f"is of {value.dtype}, expected {dtype}")
    if not value.isfinite().all():
        raise ValueError("has a number that is not finite")


def write_safetensors(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors by name, and the file's metadata, in the format of safetensors."""
    # Not by save_file(), whose errors do not say that a disk is full.
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, dict(metadata))
    with atomic_write(path, len(content)) as part:
        part.write_bytes(content)


def read_safetensors(
    path: str | os.PathLike, made_by: str, names: Collection[str] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a file of safetensors, onto the CPU.

    Args:
        path: of the file.
        made_by: says where it comes from.
        names: of the tensors to read, of those that are there; by default of all.

    Raises:
        UserError: the file is absent or torn.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: {made_by}")
    try:
        with safe_open(path, "pt") as file:
            wanted = [name for name in list(file.keys()) if names is None or name in names]
            return {name: file.get_tensor(name) for name in wanted}, file.metadata() or {}
    except Exception as error:  # what is wrong with a file shows itself in many ways
        raise UserError(f"{path} is not a file of safetensors ({explain_error(error)}): {made_by}") from None
