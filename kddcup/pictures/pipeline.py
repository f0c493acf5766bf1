"""Pictures decoded in processes, and seen by a network in batches of one size, chunk by chunk.

With a GPU the processes decode, and this one computes. Without, each process decodes and computes with one
thread: no thread waits for another, and the last bits of a feature do not depend on the number of cores.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from kddcup.io.errors import UserError, explain_error
from kddcup.io.workers import end_with_parent, keep_freed_memory
from kddcup.pictures.decode import BadPictureError, open_picture
from kddcup.pictures.extractors import RegionExtractor
from kddcup.pictures.journal import RegionJournal, Seen, Unseen

BATCH = {"cpu": 1, "cuda": 64}
"""Pictures of one size in a batch, by kind of device; a processor's caches do not hold the maps of two."""
CHUNK = {"cpu": 64, "cuda": 512}
"""Pictures in a chunk of the journal, of which batches of one size are made."""
READ_AHEAD = 8
"""Pictures that each decoding process has ready."""


def count_cores() -> int:
    """The cores for this process, one of those that a launcher started on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


class Decoded(NamedTuple):
    """A picture of a file of ``height`` × ``width`` pixels, as an extractor wants to see it."""

    height: int
    width: int
    views: tuple[np.ndarray, ...]


class Pipeline:
    """Pictures on their way from files to regions.

    Args:
        paths: of all pictures.
        extractor: with its networks on ``device``.
        device: where they compute.
        workers: processes beside this one.
        is_silent: whether no bar is shown.
    """

    def __init__(
        self,
        paths: list[Path],
        extractor: RegionExtractor,
        device: torch.device,
        workers: int,
        is_silent: bool = False,
    ) -> None:
        self._paths, self._extractor, self._device = paths, extractor, device
        self._workers, self._is_silent = workers, is_silent

    def run(self, journal: RegionJournal, chunks: list[int]) -> Iterator[int]:
        """See the pictures of chunks, and write them to the journal; gives how many of each cannot be read.

        Raises:
            UserError: one of the processes was killed; or the disk is full.
        """
        places = [journal.places(chunk) for chunk in chunks]
        compute = self._compute_beside if self._device.type == "cuda" else self._compute_within
        disable = True if self._is_silent else None
        with tqdm(
            desc="extract", total=sum(map(len, places)), unit=" pictures", disable=disable, smoothing=0.05
        ) as bar:
            try:
                for chunk, pictures in zip(chunks, compute(places), strict=True):
                    journal.write(chunk, pictures, self._extractor.description.dim)
                    bar.update(len(pictures))
                    yield sum(isinstance(picture, Unseen) for picture in pictures)
            except RuntimeError as error:
                if "DataLoader worker (pid" not in str(error):
                    raise
                raise UserError(
                    f"a process that reads pictures was killed ({explain_error(error)}), perhaps for want of "
                    "memory: run again with fewer --workers; it goes on where it was"
                ) from None

    def _compute_within(self, places: list[range]) -> Iterable[list[Seen | Unseen]]:
        """Each process decodes and computes one chunk after another."""
        return DataLoader(
            _Chunks(self),
            batch_size=None,
            sampler=places,
            num_workers=self._workers,
            collate_fn=_keep,
            worker_init_fn=_start_worker,
        )

    def _compute_beside(self, places: list[range]) -> Iterator[list[Seen | Unseen]]:
        """The processes decode, this one computes."""
        decoded = iter(
            DataLoader(
                _Pictures(self),
                batch_size=None,
                sampler=[place for chunk in places for place in chunk],
                num_workers=self._workers,
                prefetch_factor=READ_AHEAD,
                collate_fn=_keep,
                worker_init_fn=_start_worker,
            )
        )
        for chunk in places:
            yield self.see(islice(decoded, len(chunk)))

    def decode(self, place: int) -> Decoded | Unseen:
        """Open a picture and scale it as the extractor wants."""
        try:
            picture = open_picture(self._paths[place], self._extractor.shortest)
        except BadPictureError as error:
            return Unseen(str(error))
        views = tuple(view(picture.image) for view in self._extractor.views)
        return Decoded(picture.height, picture.width, views)

    def see(self, pictures: Iterable[Decoded | Unseen]) -> list[Seen | Unseen]:
        """What is seen in decoded pictures, in batches of those of one size."""
        found: dict[int, Seen | Unseen] = {}
        waiting: dict[tuple, dict[int, Decoded]] = defaultdict(dict)
        for place, picture in enumerate(pictures):
            if isinstance(picture, Unseen):
                found[place] = picture
                continue
            batch = waiting[tuple(view.shape for view in picture.views)]
            batch[place] = picture
            if len(batch) == BATCH[self._device.type]:
                found |= self._see_batch(batch)
                batch.clear()
        for batch in waiting.values():
            found |= self._see_batch(batch)
        return [found[place] for place in range(len(found))]

    def _see_batch(self, batch: dict[int, Decoded]) -> dict[int, Seen]:
        """The pictures of a batch by their places."""
        if not batch:
            return {}
        with torch.inference_mode():
            regions = self._extractor.extract([picture.views for picture in batch.values()], self._device)
        return {
            place: Seen(picture.height, picture.width, found)
            for (place, picture), found in zip(batch.items(), regions, strict=True)
        }


class _Pictures(Dataset):
    """Item i is picture i, decoded."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def __getitem__(self, place: int) -> Decoded | Unseen:
        return self._pipeline.decode(place)


class _Chunks(Dataset):
    """Item ``range(i, j)`` is what is seen in the pictures i … j−1."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def __getitem__(self, places: range) -> list[Seen | Unseen]:
        return self._pipeline.see(map(self._pipeline.decode, places))


def _start_worker(_: int) -> None:
    end_with_parent()
    keep_freed_memory()


def _keep(item: object) -> object:
    """An item as it is: tensors would take shared memory, of which a container has little."""
    return item
