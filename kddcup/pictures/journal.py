"""What has been seen in the pictures so far, chunk by chunk on the disk: a killed run goes on from there.

What a network computes of a picture depends in its last bits on the others of its batch, and a batch is made
of a chunk's pictures, so that the bytes do not depend on where a run was killed.
"""

import functools
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kddcup.io.atomic import atomic_write
from kddcup.io.errors import UserError
from kddcup.io.files import read_json, read_pickle, write_json, write_pickle
from kddcup.pictures.regions import Regions

MAPPED = 64
"""Chunks that are kept open for reading."""


class Seen(NamedTuple):
    """A picture of a file of ``height`` × ``width`` pixels, and its regions."""

    height: int
    width: int
    regions: Regions


class Unseen(NamedTuple):
    """A picture that cannot be read, and why."""

    reason: str


@dataclass
class _Chunk:
    """``features`` [R, D] are memory-mapped; the rest is small."""

    features: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    reasons: list[str]


class RegionJournal:
    """The regions of pictures 0 … n−1, chunk by chunk, on the disk; nothing of them stays in memory.

    Several processes may write different chunks. A chunk is there when its smaller file is, which is written
    last.

    Args:
        folder: of the chunks, and of nothing else.
        pictures: n.
        chunk: pictures of a chunk.
        plan: what the chunks are of; chunks of another plan are removed by :meth:`begin`.
    """

    def __init__(self, folder: Path, pictures: int, chunk: int, plan: str) -> None:
        self._folder, self._pictures, self._chunk, self._plan = folder, pictures, chunk, plan
        self._open = functools.lru_cache(MAPPED)(self._read)

    def __len__(self) -> int:
        """How many chunks there are to be."""
        return -(-self._pictures // self._chunk)

    def places(self, chunk: int) -> range:
        """The pictures of a chunk."""
        return range(chunk * self._chunk, min((chunk + 1) * self._chunk, self._pictures))

    def begin(self) -> None:
        """Remove the chunks of another plan, and write this one's name."""
        path = self._folder / "plan.json"
        if not path.is_file() or read_json(path, f"remove {self._folder}") != self._plan:
            self.clear()
            write_json(path, self._plan)

    def exists(self) -> bool:
        """Whether there is a folder of a plan, this one or another."""
        return (self._folder / "plan.json").is_file()

    def clear(self) -> None:
        """Remove all."""
        if self._folder.exists():
            # First what the rest is judged by.
            (self._folder / "plan.json").unlink(missing_ok=True)
            shutil.rmtree(self._folder)

    def __contains__(self, chunk: int) -> bool:
        """Whether a chunk is written."""
        return self._path(chunk, "pkl").is_file()

    def write(self, chunk: int, pictures: list[Seen | Unseen], dim: int) -> None:
        """Write a chunk: its pictures in order, of ``dim`` features a region."""
        regions = [
            picture.regions if isinstance(picture, Seen) else Regions(*map(np.empty, ((0, 4), (0, dim), 0)))
            for picture in pictures
        ]
        with atomic_write(self._path(chunk, "npy")) as part, open(part, "wb") as file:
            np.save(file, np.concatenate([each.features for each in regions]).astype(np.float32))
        write_pickle(
            self._path(chunk, "pkl"),
            {
                "boxes": np.concatenate([each.boxes for each in regions]).astype(np.float32),
                "labels": np.concatenate([each.labels for each in regions]).astype(np.int64),
                "offsets": np.cumsum([0, *(len(each.labels) for each in regions)]),
                "sizes": np.array(
                    [picture[:2] if isinstance(picture, Seen) else (0, 0) for picture in pictures]
                ),
                "reasons": [picture.reason if isinstance(picture, Unseen) else "" for picture in pictures],
            },
        )

    def get(self, picture: int) -> Seen | Unseen | None:
        """What was seen in a picture; None where its chunk is not written."""
        return self[picture] if picture // self._chunk in self else None

    def __getitem__(self, picture: int) -> Seen | Unseen:
        """What was seen in a picture, whose chunk is written; its features are mapped from the disk."""
        number, place = divmod(picture, self._chunk)
        chunk = self._open(number)
        if chunk.reasons[place]:
            return Unseen(chunk.reasons[place])
        rows = slice(*chunk.offsets[place : place + 2])
        height, width = chunk.sizes[place].tolist()
        return Seen(height, width, Regions(chunk.boxes[rows], chunk.features[rows], chunk.labels[rows]))

    def _read(self, chunk: int) -> _Chunk:
        path = self._path(chunk, "npy")
        try:
            features = np.load(path, mmap_mode="r")
        except (OSError, ValueError):
            raise UserError(f"{path} cannot be read: run again with --force") from None
        return _Chunk(features, **read_pickle(self._path(chunk, "pkl"), "python -m kddcup.extract --force"))

    def _path(self, chunk: int, suffix: str) -> Path:
        return self._folder / f"{chunk:06}.{suffix}"
