"""Writes an index: builds one, adds products, removes some. Whoever has it open keeps what was there."""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from kddcup.data.batch import RegionBatch
from kddcup.io.atomic import atomic_folder, atomic_write, remove_leftovers
from kddcup.io.files import write_json
from kddcup.io.folders import lock_folder
from kddcup.io.ragged import Ragged
from kddcup.rank.scoring import REGIONS_PER_BATCH
from kddcup.search.catalogue import Item
from kddcup.search.index import IDS, INDEX, Index, Manifest, Part, hash_id
from kddcup.search.models import IndexedModel
from kddcup.search.segment import SegmentWriter

_PARTS = re.compile(r"(models|segment|removed)-(\d+)(\.npy)?")


class Encoder:
    """Encodes products with all models of an index.

    Args:
        models: by name.
        likeness: the model whose weights of regions are kept.
    """

    def __init__(self, models: Mapping[str, IndexedModel], likeness: IndexedModel) -> None:
        self._models, self._likeness = models, likeness

    def measure(self, dim: int) -> int:
        """The bytes that an index keeps of a product, what is shown of it aside."""
        images = RegionBatch.from_images([(np.zeros((1, dim), np.float32), np.zeros((1, 5), np.float32))])
        return sum(array.nbytes for model in self._models.values() for array in model.encode(images).values())

    def write(self, items: Iterable[Item], folder: Path, index: Path) -> int:
        """Write a segment of items into a folder of an index; gives their number.

        Raises:
            UserError: an item cannot be encoded, or the disk is full.
        """
        with atomic_folder(folder) as part:
            writer = SegmentWriter(part, index)
            for batch in _group(items):
                images = RegionBatch.from_images([(item.features, item.boxes) for item in batch])
                encoded = {IDS: np.array([hash_id(item.product.id) for item in batch], np.int64)}
                for model in self._models.values():
                    encoded |= model.encode(images)
                boxes = images.boxes.numpy()[:, :4]
                weights = self._likeness.weigh_regions(images)[:, None]
                offsets = np.concatenate([[0], np.cumsum(images.lengths.numpy())])
                regions = Ragged(np.concatenate([boxes, weights], 1), offsets)
                labels = [label for item in batch for label in item.labels]
                writer.add([item.product for item in batch], regions, labels, encoded)
            writer.finish()
            return writer.products


def _group(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items in groups of about equally many regions."""
    group: list[Item] = []
    regions = 0
    for item in items:
        group.append(item)
        regions += len(item.boxes)
        if regions >= REGIONS_PER_BATCH:
            yield group
            group, regions = [], 0
    if group:
        yield group


class IndexWriter:
    """Writes an index. To be used in ``with``, which holds the folder's lock.

    Args:
        folder: of the index; it need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "IndexWriter":
        """Take the lock and remove what killed writers left.

        Raises:
            UserError: another writer has it.
        """
        self._stack.enter_context(lock_folder(self.folder))
        remove_leftovers(self.folder)
        self._collect()
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the lock."""
        self._stack.close()

    @property
    def is_there(self) -> bool:
        """Whether the folder has an index."""
        return (self.folder / INDEX).is_file()

    def name(self, kind: str) -> str:
        """A name that nothing in the folder has."""
        taken = [int(match[2]) for name in os.listdir(self.folder) if (match := _PARTS.fullmatch(name))]
        return f"{kind}-{max(taken, default=0) + 1}" + (".npy" if kind == "removed" else "")

    def replace(self, manifest: Manifest) -> None:
        """Make what a manifest names the index, and remove what no index names any more."""
        write_json(self.folder / INDEX, manifest.describe())
        self._collect()

    def remove(self, index: Index, rows: Collection[int], manifest: Manifest) -> Manifest:
        """Write which rows are removed from an index; gives ``manifest`` with that."""
        dead = ~index.alive
        dead[list(rows)] = True
        parts = list(manifest.parts)
        for place, (start, stop) in enumerate(zip(index.offsets[:-1], index.offsets[1:], strict=True)):
            if (dead[start:stop] == ~index.alive[start:stop]).all():
                continue
            name = self.name("removed")
            with atomic_write(self.folder / name) as part, open(part, "wb") as file:
                np.save(file, np.flatnonzero(dead[start:stop]))
            parts[place] = Part(parts[place].segment, name)
        return replace(manifest, parts=tuple(parts))

    def _collect(self) -> None:
        """Remove what the index does not name, save what somebody has open."""
        kept = set(Manifest.read(self.folder).names) if self.is_there else set()
        for name in os.listdir(self.folder):
            if not _PARTS.fullmatch(name) or name in kept:
                continue
            path = self.folder / name
            if path.is_file():  # read as a whole when an index is opened
                path.unlink()
            elif _is_free(path):
                shutil.rmtree(path)


def _is_free(folder: Path) -> bool:
    """Whether no reader holds a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def renumber(items: Iterable[Item], index: Index) -> Iterator[tuple[Item, int | None]]:
    """Give items numbers that are theirs alone in an index, and the rows that they take the place of.

    An item has the number of the product of its id, or its own, or, where another has that, a new one.
    """
    rows = np.flatnonzero(index.alive)
    places = dict(zip(index.ids[rows].tolist(), rows.tolist(), strict=True))
    taken = set(index.numbers[rows].tolist())
    highest = max(taken, default=0)
    for item in items:
        row, number = places.get(hash_id(item.product.id)), item.product.number
        if row is not None:
            number = int(index.numbers[row])
        elif number in taken:
            number = highest + 1
        taken.add(number)
        highest = max(highest, number)
        yield item._replace(product=item.product._replace(number=number)), row


def describe_size(products: int, each: int, folder: Path) -> str:
    """Say how large an index will be."""
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return (
        f"about {products:,} products of {each / 1e3:,.1f} kB: {products * each / 1e6:,.0f} MB in {folder}, "
        f"where {shutil.disk_usage(place).free / 1e6:,.0f} MB are free"
    )
