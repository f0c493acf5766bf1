"""The regions of all training products as memory-mapped arrays."""

import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from kddcup.data.batch import BOX_COLUMNS, RegionBatch
from kddcup.io.atomic import atomic_write
from kddcup.io.errors import UserError, explain_error
from kddcup.io.folders import read_marker
from kddcup.io.ragged import IdIndex, find_rows

STORE_FILES = ("features.npy", "boxes.npy", "offsets.npy", "product_ids.npy")


class RegionStore:
    """All regions of all training products as memory-mapped arrays, made by ``preprocess.py``.

    ``features.npy`` [R, D] float16 or float32, ``boxes.npy`` [R, 5] float32, ``offsets.npy`` [P+1] int64,
    ``product_ids.npy`` [P] int64.

    Args:
        folder: ``DATA/features``.

    Raises:
        UserError: the store is unfinished, a file is absent or torn, or they do not fit together.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        folder = Path(folder)
        read_marker(folder, "python preprocess.py --data_dir DATA")
        self.features = open_array(folder / "features.npy", 2, "float16", "float32")
        self.boxes = open_array(folder / "boxes.npy", 2, "float32")
        self.offsets = open_array(folder / "offsets.npy", 1, "int64")
        self.product_ids = open_array(folder / "product_ids.npy", 1, "int64")
        regions = self.offsets[-1] if len(self.offsets) else 0
        if (
            not len(self.features) == len(self.boxes) == regions
            or self.boxes.shape[1] != BOX_COLUMNS
            or len(self.product_ids) != len(self)
            or regions == 0
            or self.offsets[0] != 0
            or np.diff(self.offsets).min() < 1
        ):
            raise UserError(
                f"{folder} holds arrays of different runs: make them anew with 'python preprocess.py --force'"
            )
        self._index = IdIndex(self.product_ids)
        with warnings.catch_warnings():
            # PyTorch warns of arrays that nobody may write to. Nobody does, and Linux refuses to map a file
            # that is larger than the memory so that it could be written to.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            self._tensors = torch.from_numpy(self.features), torch.from_numpy(self.boxes)

    def __len__(self) -> int:
        """P, the number of products."""
        return len(self.offsets) - 1

    @property
    def dim(self) -> int:
        """D, the size of a region's feature."""
        return self.features.shape[1]

    def positions(self, product_ids: np.ndarray) -> np.ndarray:
        """Where in the store these products stand.

        Raises:
            UserError: a product is not in the store.
        """
        try:
            return self._index.find(product_ids)
        except KeyError as absent:
            raise UserError(
                f"product {absent} has no regions in the store: "
                "make data/features and data/info in one run of 'python preprocess.py --force'"
            ) from None

    def gather(self, positions: np.ndarray) -> RegionBatch:
        """The regions of the products at ``positions`` [B], in that order."""
        rows, lengths = find_rows(self.offsets, positions)
        # In ascending order the disk reads forward.
        order = torch.from_numpy(np.argsort(rows))
        place, ascending = order.argsort(), torch.from_numpy(rows)[order]
        features, boxes = (
            tensor.index_select(0, ascending).index_select(0, place) for tensor in self._tensors
        )
        return RegionBatch(features.float(), boxes, torch.from_numpy(lengths))


class GrowingArray:
    """A ``.npy`` file [R, columns] to which rows are appended while R is not known yet.

    It is written to and never mapped, so that a full disk is an error of the write that fails.

    Args:
        file: open for writing; for updating, where it has rows.
        columns: of the array.
        dtype: of the array.
        rows: that the file has; what follows them is cut off.
    """

    def __init__(self, file: BinaryIO, columns: int, dtype: np.typing.DTypeLike, rows: int = 0) -> None:
        self._file, self._columns, self._dtype = file, columns, np.dtype(dtype)
        self.rows = rows
        self._write_header()
        file.truncate(file.tell() + rows * columns * self._dtype.itemsize)
        file.seek(0, os.SEEK_END)

    def _write_header(self) -> None:
        # numpy pads the header so that the first dimension can grow in place.
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self.rows, self._columns),
            },
        )

    def flush(self) -> int:
        """See that the rows are on the disk; gives the file's bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def append(self, rows: np.ndarray) -> None:
        """Append [n, columns] of the array's own dtype."""
        self._file.write(np.ascontiguousarray(rows, self._dtype))
        self.rows += len(rows)

    def close(self) -> None:
        """Write the final number of rows into the header."""
        self._file.seek(0)
        self._write_header()
        self.flush()


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as a ``.npy`` file."""
    array = np.ascontiguousarray(array)
    with atomic_write(path, array.nbytes) as part, open(part, "wb") as file:
        # Not numpy.save: on a full disk it loses the last 4 KiB of an array without an error.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array)


def open_array(path: Path, dimensions: int, *dtypes: str) -> np.ndarray:
    """Map a ``.npy`` file of so many dimensions and of one of the types, to be read.

    Raises:
        UserError: the file is torn, or holds something else.
    """
    advice = "make it anew with 'python preprocess.py --force'"
    try:
        # Not numpy.load, which also opens zip files. A size beyond 64 bits is an error, not a warning.
        with np.errstate(over="raise"):
            mapped = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # what is wrong with a file shows itself in many ways
        raise UserError(f"{path} cannot be read ({explain_error(error)}): {advice}") from None
    if mapped.ndim != dimensions or mapped.dtype not in map(np.dtype, dtypes):
        raise UserError(f"{path} is an array {list(mapped.shape)} of {mapped.dtype}: {advice}")
    return mapped
