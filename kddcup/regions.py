"""Ragged image regions: the store on disk and the batch in memory. Nothing pads a region."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from kddcup.errors import UserError
from kddcup.files import whole
from kddcup.ragged import IdIndex, flat_rows

BOX_COLUMNS = 5


def scale_boxes(boxes: np.ndarray, height: int | np.ndarray, width: int | np.ndarray) -> np.ndarray:
    """Boxes relative to their image.

    Args:
        boxes: [n, 4] top, left, bottom, right in pixels.
        height: of the image, in pixels; or [n], of the image of each box.
        width: likewise.

    Returns:
        [n, 5] float32: top/h, left/w, bottom/h, right/w, and the area of the scaled box.
    """
    scale = np.stack([height, width, height, width], axis=-1).astype(np.float32)
    top, left, bottom, right = (boxes / scale).T
    return np.stack([top, left, bottom, right, (bottom - top) * (right - left)], axis=1).astype(np.float32)


@dataclass
class RegionBatch:
    """The regions of B images, image after image, R in all.

    ``features`` [R, D] float32, ``boxes`` [R, 5] float32 as :func:`scale_boxes` gives them, ``lengths`` [B]
    int64 regions per image. ``lengths`` stays in the CPU's memory, where it is read to lay out the batch.
    """

    features: torch.Tensor
    boxes: torch.Tensor
    lengths: torch.Tensor

    def __len__(self) -> int:
        """B."""
        return len(self.lengths)

    @classmethod
    def from_images(cls, images: Iterable[tuple[np.ndarray, np.ndarray]]) -> "RegionBatch":
        """From one (features [n, D], scaled boxes [n, 5]) per image."""
        features, boxes = zip(*images, strict=True)
        return cls(
            torch.from_numpy(np.concatenate(features)),
            torch.from_numpy(np.concatenate(boxes)),
            torch.tensor([len(one) for one in boxes]),
        )

    def to(self, device: torch.device) -> "RegionBatch":
        """On ``device``; the copy does not block where the memory is pinned."""
        return RegionBatch(
            self.features.to(device, non_blocking=True),
            self.boxes.to(device, non_blocking=True),
            self.lengths,
        )

    def pin_memory(self) -> "RegionBatch":
        """In page-locked memory, for copies to a GPU."""
        return RegionBatch(self.features.pin_memory(), self.boxes.pin_memory(), self.lengths)


class RegionStore:
    """All regions of all training products as memory-mapped arrays, made by ``preprocess.py``.

    ``features.npy`` [R, D] float16 or float32, ``boxes.npy`` [R, 5] float32, ``offsets.npy`` [P+1] int64,
    ``product_ids.npy`` [P] int64.

    Args:
        folder: ``DATA/features``.

    Raises:
        UserError: a file is absent or they do not fit together.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        folder = Path(folder)
        try:
            # Copy on write, which nobody does: PyTorch takes arrays that could be written.
            self.features = np.load(folder / "features.npy", mmap_mode="c")
            self.boxes = np.load(folder / "boxes.npy", mmap_mode="c")
            self.offsets = np.load(folder / "offsets.npy", mmap_mode="r")
            self.product_ids = np.load(folder / "product_ids.npy", mmap_mode="r")
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} does not exist: make it with 'python preprocess.py'") from None
        except (ValueError, EOFError) as error:
            raise UserError(
                f"{folder} holds a torn file ({error}): make it anew with 'python preprocess.py --force'"
            ) from None
        regions = self.offsets[-1] if len(self.offsets) else 0
        if (
            not len(self.features) == len(self.boxes) == regions
            or len(self.product_ids) != len(self)
            or regions == 0
        ):
            raise UserError(
                f"{folder} holds arrays of different runs: make them anew with 'python preprocess.py --force'"
            )
        self._index = IdIndex(self.product_ids)

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
            return self._index.positions(product_ids)
        except KeyError as stranger:
            raise UserError(
                f"product {stranger} has no regions in the store: "
                "make data/features and data/info in one run of 'python preprocess.py --force'"
            ) from None

    def gather(self, positions: np.ndarray) -> RegionBatch:
        """The regions of the products at ``positions`` [B], in that order."""
        rows, lengths = flat_rows(self.offsets, positions)
        # In ascending order the disk reads forward.
        order = torch.from_numpy(np.argsort(rows))
        place, ascending = order.argsort(), torch.from_numpy(rows)[order]
        features, boxes = (
            torch.from_numpy(array).index_select(0, ascending).index_select(0, place)
            for array in (self.features, self.boxes)
        )
        return RegionBatch(features.float(), boxes, torch.from_numpy(lengths))


class GrowingArray:
    """A ``.npy`` file [R, columns] to which rows are appended while R is not known yet."""

    def __init__(self, file: BinaryIO, columns: int, dtype: np.typing.DTypeLike) -> None:
        self._file, self._columns, self._dtype = file, columns, np.dtype(dtype)
        self.rows = 0
        self._write_header()

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

    def append(self, rows: np.ndarray) -> None:
        """Append [n, columns] of the array's own dtype."""
        self._file.write(np.ascontiguousarray(rows, self._dtype))
        self.rows += len(rows)

    def close(self) -> None:
        """Write the final number of rows into the header."""
        self._file.seek(0)
        self._write_header()


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a whole ``.npy`` file."""
    with whole(path) as part, open(part, "wb") as file:
        np.save(file, array)
