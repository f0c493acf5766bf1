"""A table on disk, read row by row."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import xxhash

from kddcup.io.errors import UserError
from kddcup.table.lines import Line, LineFile
from kddcup.table.rows import COLUMNS, MAX_PIXELS, BadRow, BadRowError, Row, _array, _integer, _largest

FIRST_ROWS = 100
"""That tell the dimension of a table's features."""


class Table(LineFile):
    """A table on disk, read row by row.

    Args:
        path: the ``.tsv`` file; where there is none, ``path`` with ``.gz`` is taken.

    Raises:
        UserError: there is no such file, or its header lacks a column or has one twice.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(path)
        names = self.header.decode(errors="replace").rstrip("\r\n").split("\t")
        missing = [column for column in COLUMNS if column not in names]
        if missing:
            raise UserError(
                f"{path}, line 1: the header lacks {', '.join(missing)}; "
                f"expected the columns {' '.join(COLUMNS)}"
            )
        twice = [column for column in COLUMNS if names.count(column) > 1]
        if twice:
            raise UserError(f"{path}, line 1: the header has {', '.join(twice)} twice; take one out")
        self._places = [names.index(column) for column in COLUMNS]
        self._width = len(names)

    def rows(self, description: str) -> Iterator[Row]:
        """All rows in order, under a progress bar in bytes that bears ``description``.

        Raises:
            UserError: a row does not hold what the header promises; names the file, the line and the matter.
        """
        count = 0
        with self.progress(description) as advance:
            for row in self.read():
                if isinstance(row, BadRow):
                    raise self.refusal(count, row.error)
                count += 1
                yield row
                advance(row.size, 1)
        if count == 0:
            raise self.rowless()

    def read(
        self,
        start: int | None = None,
        stop: int | None = None,
        dim: int | None = None,
        known: Mapping[int, int] = MappingProxyType({}),
    ) -> Iterator[Row | BadRow]:
        """The rows whose lines begin at bytes ``start`` to ``stop``; all by default.

        Args:
            start: as in :meth:`lines`, which says what errors there are.
            stop: likewise.
            dim: of the features; by default, that of the first good row. Rows of another are bad.
            known: the checksum of a product's image that has been read before. Features are most of a table,
                and a product comes again and again: those of the same image are not decoded once more.
        """
        for line in self.lines(start, stop):
            try:
                row = self._parse(line, dim, known)
                if row.features is not None:
                    dim = row.features.shape[1]
            except BadRowError as bad:
                row = BadRow(bad, line.digest, line.place, len(line.content))
            yield row

    def dimension(self, patience: int) -> int | None:
        """D of most of the first rows; None where more than ``patience`` bad ones are all that comes first.

        Half of a row's features would do for a row of another dimension; it is not the first one to say so.
        """
        found: Counter[int] = Counter()
        bad_rows = 0
        for line in self.lines():
            try:
                found[self._parse(line, None, {}).features.shape[1]] += 1
            except BadRowError:
                bad_rows += 1
            if found.total() >= FIRST_ROWS or bad_rows > patience:
                break
        return found.most_common(1)[0][0] if found else None

    def refusal(self, rows_before: int, reason: object) -> UserError:
        """What a user is told of a bad row."""
        return UserError(f"{self.path}, line {rows_before + 2}: {reason}; mend the row or take it out")

    def rowless(self) -> UserError:
        """What a user is told of a table without a row."""
        return UserError(f"{self.path} has a header and no row: put the whole table there")

    def _fields(self, line: bytes) -> list[memoryview]:
        """The fields of a line in the order of :data:`COLUMNS`; views, since features are large."""
        end = len(line)
        while end and line[end - 1] in b"\r\n":
            end -= 1
        tabs = [-1]
        while len(tabs) <= self._width and (tab := line.find(b"\t", tabs[-1] + 1, end)) >= 0:
            tabs.append(tab)
        if len(tabs) != self._width:
            found = line.count(b"\t") + 1
            raise BadRowError(
                "number of fields", f"expected {self._width} tab-separated fields, found {found}"
            )
        tabs.append(end)
        view = memoryview(line)
        return [view[tabs[place] + 1 : tabs[place + 1]] for place in self._places]

    def _parse(self, line: Line, dim: int | None, known: Mapping[int, int]) -> Row:
        product_id, image_h, image_w, num_boxes, boxes, features, labels, query, query_id = self._fields(
            line.content
        )
        height, width = _integer("image_h", image_h), _integer("image_w", image_w)
        n = _integer("num_boxes", num_boxes)
        if height == 0 or width == 0:
            raise BadRowError(
                "image_h or image_w is 0",
                f"image_h and image_w must be at least 1, found {height} and {width}",
            )
        if n == 0:
            raise BadRowError("num_boxes is 0", "num_boxes is 0, expected at least 1")
        image = xxhash.xxh3_64()
        for field in (image_h, image_w, num_boxes, boxes, features):
            image.update(field)
        product, checksum = _integer("product_id", product_id), image.intdigest()
        region_features, largest = None, 0.0
        if known.get(product) != checksum:
            region_features = _array("features", features, np.float32, n, dim)
            largest = _largest("features", region_features)
        pixels = _array("boxes", boxes, np.float32, n, 4)
        if _largest("boxes", pixels) > MAX_PIXELS:
            raise BadRowError("boxes far outside", f"boxes holds a coordinate beyond ±{MAX_PIXELS:g} pixels")
        class_labels = _array("class_labels", labels, np.int64, n, 1)[:, 0]
        if class_labels.min() < 0:
            raise BadRowError(
                "class_labels is negative", f"class_labels holds {class_labels.min()}, expected ids from 0"
            )
        try:
            text = str(query, "utf-8")
        except UnicodeDecodeError:
            raise BadRowError("query is not UTF-8", "query is not UTF-8") from None
        return Row(
            product,
            height,
            width,
            pixels,
            region_features,
            largest,
            class_labels,
            text,
            _integer("query_id", query_id),
            checksum,
            line.digest,
            line.place,
            len(line.content),
        )
