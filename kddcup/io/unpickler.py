"""Pickles of dicts, lists, strings, numbers and numpy arrays: no code runs, and no memory is filled."""

import os
import pickle
import pickletools
from typing import Any, BinaryIO

import numpy as np

# All that a pickle of data needs. Among the others are some that find code in ways of their own, and some
# that take as much memory as they say.
_OPCODES = {
    *("PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "STACK_GLOBAL", "REDUCE", "BUILD"),
}
# An array takes six at most; the hash of 100,000 within each other overflows the stack.
_MAX_TUPLES = 10_000
_NUMBER_TYPES = {"b1", "i4", "i8", "u1", "u8", "f2", "f4", "f8"}


class _NumberType:
    """Stands for ``numpy.dtype``; of its state, which could crash Python, it takes the byte order."""

    __slots__ = ("dtype",)

    def __init__(self, code: str, *_: object) -> None:
        if code not in _NUMBER_TYPES:
            raise pickle.UnpicklingError(f"it holds an array of type {code!r}, which is not a number")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for an array until the whole file has been read."""

    __slots__ = ("array", "state")

    def __init__(self, *_: object) -> None:
        self.state = self.array = None

    def __setstate__(self, state: tuple) -> None:
        self.state = state


# What a pickle of an array is made of, as numpy 1 and 2 name it. As both classes have a __setstate__, a
# pickle can set nothing on the classes themselves.
_STAND_INS: dict[tuple[str, str], type | None] = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _NumberType,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


class DataUnpickler(pickle.Unpickler):
    """Reads a pickle of protocol 4 of a dict, of dicts, lists, strings, numbers and numpy arrays.

    Args:
        file: open for reading, at its start.

    Raises:
        pickle.UnpicklingError: it holds something else, or would unpack to more than its size; a torn file
            raises other exceptions too.
    """

    def __init__(self, file: BinaryIO) -> None:
        _check_opcodes(file)
        file.seek(0)
        super().__init__(file)
        self._room = os.fstat(file.fileno()).st_size
        self._seen: set[int] = set()

    def find_class(self, module: str, name: str) -> type | None:
        """What stands for a name in the pickle; nothing is imported."""
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not an array of numbers")
        return _STAND_INS[module, name]

    def load(self) -> Any:
        """The value."""
        return self._data(super().load())

    def _data(self, value: Any) -> Any:
        """The value, seen to be data, with its arrays in their places."""
        if isinstance(value, _Array):
            return self._array(value)
        if isinstance(value, dict | list):
            if id(value) in self._seen:
                raise pickle.UnpicklingError("it holds a dict or a list that occurs twice in it")
            self._seen.add(id(value))
            for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
                if not isinstance(key, str | int | float):
                    raise pickle.UnpicklingError(f"it holds a {type(key).__name__} as a key")
                value[key] = self._data(item)
        elif not isinstance(value, str | int | float | None):
            raise pickle.UnpicklingError(f"it holds a {type(value).__name__}, which is not data")
        return value

    def _array(self, stand_in: _Array) -> np.ndarray:
        if stand_in.array is None:
            _, shape, kind, fortran, content = stand_in.state
            array = np.ndarray(shape, kind.dtype, content, order="F" if fortran else "C")
            # Many arrays can be of the same bytes.
            self._room -= array.nbytes
            if self._room < 0:
                raise pickle.UnpicklingError("it would unpack to more than its own size")
            stand_in.array = array.copy("K")
        return stand_in.array


def _check_opcodes(file: BinaryIO) -> None:
    tuples = 0
    for opcode, _, _ in pickletools.genops(file):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"it has the opcode {opcode.name}, of which data has no need")
        tuples += opcode.name.startswith("TUPLE")
        if tuples > _MAX_TUPLES:
            raise pickle.UnpicklingError(f"it has more than {_MAX_TUPLES:,} tuples")
