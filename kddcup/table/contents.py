"""What the rows of a table say, pictures aside, as one pass over it collects it."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kddcup.table.lines import LinesDigest

SCALAR_COLUMNS = ("product_id", "image_h", "image_w", "query_id")


@dataclass
class RowColumns:
    """Successive rows of a table without their pictures, as columns.

    ``scalars`` are the :data:`SCALAR_COLUMNS`, [n] int64 each; ``checksums`` [n] int64 are the bits of the
    images' checksums; ``outside`` [n] int64 boxes that are partly outside their image; ``lengths`` [n] int64
    regions per row; ``class_labels`` [R] int64 over the regions; ``queries`` n texts.

    ``digests`` [n + bad] int64 of all lines, ``bad`` a list of the position among them, the kind and the
    detail for each that is not a row; ``stop`` is the byte where the next line begins.
    """

    scalars: dict[str, np.ndarray]
    checksums: np.ndarray
    outside: np.ndarray
    lengths: np.ndarray
    class_labels: np.ndarray
    queries: list[str]
    digests: np.ndarray
    bad: list[list[int | str]]
    stop: int

    @property
    def images(self) -> list[tuple[int, int]]:
        """The product of each row and the checksum of its image, as :class:`kddcup.table.rows.Row` has it."""
        products, checksums = self.scalars["product_id"], self.checksums.view(np.uint64)
        return list(zip(products.tolist(), checksums.tolist(), strict=True))


class Contents:
    """What has been read of a table so far.

    Args:
        header: of the table.

    Attributes:
        stop: the byte where the next line begins.
        lines: how many were read, bad ones included.
        digest: of them.
        rows: how many of them were good.
        checksums: of the first image of each product, by its id, in order of first appearance.
        offsets: where each product's regions begin in the store, in the same order, and where the last's end.
        texts: of the queries, by id, in order of first appearance.
        outside: how many of the store's boxes are partly outside their image.
        differing: how many later rows of a product have another image than its first.
        renamed: how many later rows of a query id have another text than its first.
    """

    def __init__(self, header: bytes) -> None:
        self.stop = len(header)
        self.lines = 0
        self.digest = LinesDigest(header)
        self.rows = 0
        self.checksums: dict[int, int] = {}
        self.offsets = array("q", [0])
        self.texts: dict[int, str] = {}
        self.outside = self.differing = self.renamed = 0
        self._scalars: list[dict[str, np.ndarray]] = []
        self._class_labels: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []

    @property
    def products(self) -> int:
        """How many different products there are."""
        return len(self.checksums)

    @property
    def regions(self) -> int:
        """How many regions they have in the store."""
        return self.offsets[-1]

    def add(self, rows: RowColumns) -> np.ndarray:
        """Add the next rows; gives the places [m] among them of the first row of each new product."""
        self.stop = rows.stop
        self.lines += len(rows.digests)
        self.digest.update(rows.digests)
        self.rows += len(rows.lengths)
        self._scalars.append(rows.scalars)
        self._class_labels.append(rows.class_labels)
        self._lengths.append(rows.lengths)
        for query, text in zip(rows.scalars["query_id"].tolist(), rows.queries, strict=True):
            self.renamed += self.texts.setdefault(query, text) != text
        new = []
        for place, (product, checksum) in enumerate(rows.images):
            if product not in self.checksums:
                self.checksums[product] = checksum
                self.offsets.append(self.regions + int(rows.lengths[place]))
                self.outside += int(rows.outside[place])
                new.append(place)
            elif self.checksums[product] != checksum:
                self.differing += 1
        return np.array(new, np.int64)

    def join_columns(self) -> dict[str, np.ndarray]:
        """Join the columns of all rows: the scalar ones by name, and class labels with their offsets."""
        lengths = _join(self._lengths)
        return {
            **{name: _join(part[name] for part in self._scalars) for name in SCALAR_COLUMNS},
            "class_label": _join(self._class_labels),
            "class_label_offsets": _join([[0], np.cumsum(lengths)]),
        }


def _join(parts: Iterable[np.ndarray]) -> np.ndarray:
    # An array from another process has a type object of its own, which would change the bytes of a pickle.
    return np.concatenate([*parts], dtype=np.int64)
