"""An index: its models, its segments, and the one file that says which of them are the index.

The folder of an index::

    index.json          which of the following are the index; replaced at once
    models-1/           the models, their blend, their words; never changed
    segment-1/, …       products; never changed
    removed-1.npy, …    rows of a segment that are not the index's any more; never changed

What ``index.json`` no longer names is removed by the next writer, unless somebody has it open.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash

from kddcup.io.errors import UserError
from kddcup.io.files import read_json
from kddcup.search.segment import REBUILD, Hold, Product, Regions, Segment

INDEX = "index.json"
IDS = "ids"
"""The array of 64-bit hashes of the shop's ids."""


def hash_id(id_: str) -> int:
    """Hash a shop's id, as the array :data:`IDS` has it."""
    return int(np.uint64(xxhash.xxh3_64_intdigest(id_.encode())).view(np.int64))


@dataclass(frozen=True)
class Part:
    """A segment of an index by its folder's name, and the file of its rows that are removed, if any."""

    segment: str
    removed: str | None = None


@dataclass(frozen=True)
class Manifest:
    """What ``index.json`` says.

    Args:
        models: the name of the folder of models.
        parts: the segments in their order.
    """

    models: str
    parts: tuple[Part, ...]

    @property
    def names(self) -> list[str]:
        """The names of all files and folders that are the index."""
        removed = [part.removed for part in self.parts if part.removed]
        return [self.models, *(part.segment for part in self.parts), *removed]

    def describe(self) -> dict[str, Any]:
        """In plain types."""
        parts = [{"segment": part.segment, "removed": part.removed} for part in self.parts]
        return {"models": self.models, "segments": parts}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read it of the folder of an index.

        Raises:
            UserError: it is absent or of another form, or names something outside the folder.
        """
        path = folder / INDEX
        content = read_json(path, "make it with 'python -m kddcup.search index'")
        try:
            parts = tuple(Part(part["segment"], part["removed"]) for part in content["segments"])
            manifest = cls(content["models"], parts)
            if not all(isinstance(name, str) and name == os.path.basename(name) for name in manifest.names):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path} does not describe an index: {REBUILD}") from None
        return manifest


class Index:
    """An index as it was when it was opened, whatever becomes of its folder.

    Args:
        folder: of the index.
        stamp: of its ``index.json``.
        manifest: what that says.
        segments: of its products, in their order; a row of the index is one of a segment.
        alive: [N] which rows have not been removed.
        hold: keeps the files.
    """

    def __init__(
        self,
        folder: Path,
        stamp: tuple[int, int],
        manifest: Manifest,
        segments: Sequence[Segment],
        alive: np.ndarray,
        hold: Hold,
    ) -> None:
        self.folder, self.manifest, self.segments, self.alive = folder, manifest, segments, alive
        self._stamp, self._hold = stamp, hold
        self.offsets = np.concatenate([[0], np.cumsum([each.products for each in segments], dtype=np.int64)])
        self.numbers, self.ids = self._join("numbers"), self._join(IDS)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open an index.

        Raises:
            UserError: there is none, or it is torn.
        """
        folder = Path(folder)
        while True:
            stamp = _read_stamp(folder)
            manifest = Manifest.read(folder)
            try:
                folders = [folder / manifest.models, *(folder / part.segment for part in manifest.parts)]
                hold = Hold(folders)
                segments = [Segment.open(folder / part.segment) for part in manifest.parts]
                alive = [
                    _read_alive(folder / part.removed if part.removed else None, segment.products)
                    for part, segment in zip(manifest.parts, segments, strict=True)
                ]
            except FileNotFoundError as error:
                if _read_stamp(folder) == stamp:
                    raise UserError(
                        f"{error.filename or error} is missing from the index: {REBUILD}"
                    ) from None
                continue  # it has been replaced while we looked
            if _read_stamp(folder) == stamp:
                return cls(
                    folder, stamp, manifest, segments, np.concatenate([np.zeros(0, bool), *alive]), hold
                )
            hold.release()

    def is_current(self) -> bool:
        """Whether the folder still has this index and not one that has replaced it."""
        return _read_stamp(self.folder) == self._stamp

    def close(self) -> None:
        """Let writers remove the files once they are not the index's any more."""
        self._hold.release()

    @property
    def models_folder(self) -> Path:
        """The folder of the models."""
        return self.folder / self.manifest.models

    def __len__(self) -> int:
        """The number of rows, removed ones included."""
        return int(self.offsets[-1])

    @property
    def count(self) -> int:
        """The number of products, removed ones left out."""
        return int(self.alive.sum())

    def product(self, row: int) -> Product:
        """Read what is shown of the product of a row."""
        segment, place = self._locate(row)
        return segment.read_product(place, self.folder)

    def regions(self, row: int) -> Regions:
        """Read the regions of the product of a row."""
        segment, place = self._locate(row)
        return segment.read_regions(place)

    def find(self, id_: str) -> int | None:
        """Find the row of a product by the shop's id; None where there is none, or it is removed."""
        found = np.flatnonzero((self.ids == hash_id(id_)) & self.alive).tolist()
        return next((row for row in found if self.product(row).id == id_), None)

    def take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Copy rows [n] of an array: [n, ..]."""
        first = self.segments[0].arrays[name]
        if len(self.segments) == 1:
            return first[rows]
        found = np.empty((len(rows), *first.shape[1:]), first.dtype)
        owner = np.searchsorted(self.offsets, rows, "right") - 1
        for place, segment in enumerate(self.segments):
            mine = np.flatnonzero(owner == place)
            found[mine] = segment.arrays[name][rows[mine] - self.offsets[place]]
        return found

    def _join(self, name: str) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int64), *(segment.arrays[name] for segment in self.segments)])

    def _locate(self, row: int) -> tuple[Segment, int]:
        if not 0 <= row < len(self):
            raise IndexError(row)
        place = int(np.searchsorted(self.offsets, row, "right")) - 1
        return self.segments[place], row - int(self.offsets[place])


def _read_stamp(folder: Path) -> tuple[int, int] | None:
    """What tells one ``index.json`` of a folder from the next; None where there is none."""
    with contextlib.suppress(OSError):
        stat = os.stat(folder / INDEX)
        return stat.st_ino, stat.st_mtime_ns
    return None


def _read_alive(removed: Path | None, products: int) -> np.ndarray:
    """Which rows of a segment are not removed."""
    alive = np.ones(products, bool)
    if removed is not None:
        alive[np.load(removed, allow_pickle=False)] = False
    return alive
