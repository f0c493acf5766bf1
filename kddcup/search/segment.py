"""A segment: what is kept of some products, in files that are mapped into memory and never changed."""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from kddcup.io.errors import UserError
from kddcup.io.files import read_json, write_json
from kddcup.io.ragged import Ragged
from kddcup.table.products import ListedPicture

SEGMENT = "segment.json"
"""The name of the file that says which arrays a segment has; the last that is written."""
ARRAY = ".bin"
"""The suffix of the files of arrays, which have their numbers alone."""
TEXTS = "texts"
"""The array of what is shown of products: JSON as bytes, one after the other."""
CLASSES = "classes"
"""The array of the regions' classes, as places in the segment's list of labels."""
REBUILD = "build the index anew with 'python -m kddcup.search index --force'"


class Product(NamedTuple):
    """A product as it is shown.

    Args:
        number: its id in tables and predictions; equal scores are ranked by it.
        id: its id in the shop, any text.
        title: may be empty.
        url: likewise.
        height: of its picture, in pixels; several pictures stand side by side, aligned at the top.
        width: likewise.
        pictures: the files, in the order of the regions; none where the tables do not say.
    """

    number: int
    id: str
    title: str
    url: str
    height: int
    width: int
    pictures: tuple[ListedPicture, ...]


class Regions(NamedTuple):
    """The regions of a product.

    ``boxes`` [n, 4] float32 are top, left, bottom and right, relative to the picture's height and width;
    ``weights`` [n] float32 say how much each counts in the encoded image, 1 in all; ``labels`` are the names
    of their classes, empty where they are unknown.
    """

    boxes: np.ndarray
    weights: np.ndarray
    labels: tuple[str, ...]


class SegmentWriter:
    """Writes a segment, batch by batch.

    Args:
        folder: an empty one.
        index: the index that it will be of, to whose folder the paths of pictures are relative.
    """

    def __init__(self, folder: Path, index: Path) -> None:
        self._folder, self._index = folder, index.resolve()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}
        self._largest: dict[str, float] = {}
        self._labels: dict[str, int] = {}
        self.products = 0

    def add(
        self,
        products: Sequence[Product],
        regions: Ragged,
        labels: Sequence[str],
        encoded: Mapping[str, np.ndarray],
    ) -> None:
        """Append products.

        Args:
            products: P of them.
            regions: [·, 5] float32 of each, a box and its weight.
            labels: the name of the class of each region, empty where it is unknown.
            encoded: by name, [P, ..]: float16, or what needs no check.

        Raises:
            UserError: a number is not finite.
        """
        for name, array in encoded.items():
            if array.dtype == np.float16 and not np.isfinite(array).all():
                bad = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))[0])
                raise UserError(
                    f"product {products[bad].id}: its {name} are too large for float16, or no numbers: "
                    "look at its features, or take another checkpoint"
                )
            self._append(name, array)
            if array.ndim > 1:
                # Of rows of the last dimension, which words are multiplied with.
                norms = np.linalg.norm(array.astype(np.float64), axis=-1)
                self._largest[name] = max(self._largest.get(name, 0.0), float(norms.max(initial=0)))
        texts = Ragged.from_texts(json.dumps(self._describe(product)) for product in products)
        self._append("numbers", np.array([product.number for product in products], np.int64))
        self._append("regions", regions.values.astype(np.float32))
        self._append("regions_lengths", regions.lengths)
        classes = [self._labels.setdefault(label, len(self._labels)) for label in labels]
        self._append(CLASSES, np.array(classes, np.int64))
        self._append(TEXTS, texts.values)
        self._append(f"{TEXTS}_lengths", texts.lengths)
        self.products += len(products)

    def _describe(self, product: Product) -> list[Any]:
        pictures = [
            [os.path.relpath(path.resolve(), self._index), *sizes] for _, path, *sizes in product.pictures
        ]
        return [product.id, product.title, product.url, product.height, product.width, pictures]

    def _append(self, name: str, array: np.ndarray) -> None:
        with open(self._folder / f"{name}{ARRAY}", "ab") as file:
            file.write(np.ascontiguousarray(array).data)
        self._dtypes[name] = str(array.dtype)
        self._shapes[name] = array.shape[1:]

    def finish(self) -> None:
        """Say what was written."""
        arrays = {
            name: {"dtype": self._dtypes[name], "shape": list(shape), "norm": self._largest.get(name)}
            for name, shape in self._shapes.items()
        }
        write_json(
            self._folder / SEGMENT,
            {"products": self.products, "labels": list(self._labels), "arrays": arrays},
        )


@dataclass(frozen=True)
class Segment:
    """A segment whose files are mapped.

    Args:
        products: how many.
        arrays: by name, [products, ..] each.
        norms: the largest norm of an array's rows of the last dimension, by the array's name.
        regions: [·, 5] float32 of each product, a box and its weight.
        classes: [·] of the regions, places in ``labels``.
        labels: the names of classes.
        texts: what is shown of each product.
    """

    folder: Path
    products: int
    arrays: dict[str, np.ndarray]
    norms: dict[str, float]
    regions: Ragged
    classes: np.ndarray
    labels: list[str]
    texts: Ragged

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map the files.

        Raises:
            FileNotFoundError: the folder is not there.
            UserError: a file is torn.
        """
        if not folder.is_dir():
            raise FileNotFoundError(folder)
        content = read_json(folder / SEGMENT, REBUILD)
        arrays: dict[str, np.ndarray] = {}
        norms: dict[str, float] = {}
        try:
            products = int(content["products"])
            for name, entry in content["arrays"].items():
                if name != os.path.basename(name):
                    raise ValueError("an array is outside the folder")
                arrays[name] = _map(
                    folder / f"{name}{ARRAY}", np.dtype(entry["dtype"]), tuple(entry["shape"])
                )
                if entry["norm"] is not None:
                    norms[name] = float(entry["norm"])
            regions, texts = (
                Ragged(arrays.pop(name), _offsets(arrays.pop(f"{name}_lengths")))
                for name in ("regions", TEXTS)
            )
            classes, labels = arrays.pop(CLASSES), content["labels"]
            if any(len(array) != products for array in (*arrays.values(), regions, texts)):
                raise ValueError("the files are not of equally many products")
            if len(classes) != len(regions.values) or classes.max(initial=-1) >= len(labels):
                raise ValueError("the classes are not those of the regions")
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise UserError(f"{folder} is not a whole segment of an index ({error}): {REBUILD}") from None
        return cls(folder, products, arrays, norms, regions, classes, labels, texts)

    def read_regions(self, row: int) -> Regions:
        """Read the regions of a product."""
        found = self.regions[row]
        classes = self.classes[self.regions.offsets[row] : self.regions.offsets[row + 1]]
        return Regions(found[:, :4], found[:, 4], tuple(self.labels[place] for place in classes.tolist()))

    def read_product(self, row: int, index: Path) -> Product:
        """Read what is shown of a product; ``index`` is the folder of the index."""
        id_, title, url, height, width, pictures = json.loads(self.texts[row].tobytes())
        number = int(self.arrays["numbers"][row])
        listed = tuple(ListedPicture(number, index / path, *sizes) for path, *sizes in pictures)
        return Product(number, id_, title, url, height, width, listed)


def _map(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    item = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    size = path.stat().st_size
    if item == 0 or size == 0:
        return np.zeros((0, *shape), dtype)
    if size % item:
        raise ValueError(f"{path.name} is cut off")
    # Private, so that PyTorch takes it without a copy; nothing is ever written to it.
    return np.memmap(path, dtype, "c", shape=(size // item, *shape))


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


class Hold:
    """Holds folders of an index, so that no writer removes them.

    Args:
        folders: that must be there.

    Raises:
        FileNotFoundError: one is not.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._descriptors: list[int] = []
        try:
            for folder in folders:
                self._descriptors.append(os.open(folder, os.O_RDONLY))
                fcntl.flock(self._descriptors[-1], fcntl.LOCK_SH)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go of them."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __del__(self) -> None:
        """Let go of them."""
        self.release()
