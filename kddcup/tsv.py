"""The competition's table format: tab-separated, a header, no quoting, arrays as base64."""

import binascii
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pybase64
import xxhash
from tqdm import tqdm

from kddcup.errors import UserError

COLUMNS = (
    "product_id",
    "image_h",
    "image_w",
    "num_boxes",
    "boxes",
    "features",
    "class_labels",
    "query",
    "query_id",
)


class BadRowError(Exception):
    """A row that does not hold what the header promises; the message says what was expected."""


class Row(NamedTuple):
    """One row: a product's image and a query.

    ``boxes`` [n, 4] float32 are top, left, bottom, right in pixels, ``features`` [n, D] float32,
    ``class_labels`` [n] int64; ``checksum`` is a 64-bit hash of what the image is, ``size`` the
    line's bytes.
    """

    product_id: int
    image_h: int
    image_w: int
    boxes: np.ndarray
    features: np.ndarray
    class_labels: np.ndarray
    query: str
    query_id: int
    checksum: int
    size: int


class Table:
    """A table on disk, read row by row.

    Args:
        path: the ``.tsv`` file.

    Raises:
        UserError: there is no such file, or its header lacks a column.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(
                f"{path} does not exist: put the competition's tables there, "
                "or make a small data set with 'python -m kddcup.sample --out FOLDER'"
            )
        with open(self.path, "rb") as file:
            header = file.readline()
        names = header.decode(errors="replace").rstrip("\r\n").split("\t")
        missing = [column for column in COLUMNS if column not in names]
        if missing:
            raise UserError(
                f"{path}, line 1: the header lacks {', '.join(missing)}; "
                f"expected the columns {' '.join(COLUMNS)}"
            )
        self._places = [names.index(column) for column in COLUMNS]
        self._width = len(names)
        self._header_bytes = len(header)

    def rows(self, description: str) -> Iterator[Row]:
        """All rows in order, under a progress bar in bytes that bears ``description``.

        Raises:
            UserError: a row does not hold what the header promises; names the file, the line and the matter.
        """
        count = 0
        with self.progress(description) as advance:
            try:
                for row in self.read():
                    count += 1
                    yield row
                    advance(row.size, 1)
            except BadRowError as bad:
                raise self.refusal(count, bad) from None
        if count == 0:
            raise self.rowless()

    def read(self, start: int | None = None, stop: int | None = None) -> Iterator[Row]:
        """The rows whose lines begin at bytes ``start`` to ``stop`` of the file; all by default.

        Raises:
            BadRowError: a row does not hold what the header promises, or has features of another dimension
                than the first.
        """
        place = (start or self._header_bytes) - 1
        dim = None
        with open(self.path, "rb", buffering=1 << 20) as file:
            file.seek(place)
            place += len(file.readline())  # the rest of a line that begins before
            while stop is None or place < stop:
                line = file.readline()
                if not line:
                    return
                row = self._parse(line, dim)
                dim = row.features.shape[1]
                yield row
                place += row.size

    def ranges(self, size: int) -> list[tuple[int, int]]:
        """Starts and stops for :meth:`read`, of about ``size`` bytes each, which cover all rows."""
        end = self.path.stat().st_size
        return [(start, min(start + size, end)) for start in range(self._header_bytes, end, size)]

    @contextlib.contextmanager
    def progress(self, description: str) -> Iterator[Callable[[int, int], None]]:
        """A bar over the file's bytes; gives a function that takes bytes and rows that are done."""
        rows = 0
        total = self.path.stat().st_size
        with tqdm(desc=description, total=total, unit="B", unit_scale=True, disable=None) as bar:

            def advance(more_bytes: int, more_rows: int) -> None:
                nonlocal rows
                rows += more_rows
                if not bar.disable:
                    rate = rows / max(bar.format_dict["elapsed"], 1e-3)
                    bar.set_postfix_str(f"{rate:,.0f} rows/s", refresh=False)
                bar.update(more_bytes)

            advance(self._header_bytes, 0)
            yield advance

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
        while (tab := line.find(b"\t", tabs[-1] + 1, end)) >= 0:
            tabs.append(tab)
        if len(tabs) != self._width:
            raise BadRowError(f"expected {self._width} tab-separated fields, found {len(tabs)}")
        tabs.append(end)
        view = memoryview(line)
        return [view[tabs[place] + 1 : tabs[place + 1]] for place in self._places]

    def _parse(self, line: bytes, dim: int | None) -> Row:
        product_id, image_h, image_w, num_boxes, boxes, features, labels, query, query_id = self._fields(line)
        height, width = _integer("image_h", image_h), _integer("image_w", image_w)
        n = _integer("num_boxes", num_boxes)
        if height == 0 or width == 0:
            raise BadRowError(f"image_h and image_w must be at least 1, found {height} and {width}")
        if n == 0:
            raise BadRowError("num_boxes is 0, expected at least 1")
        region_features = _array("features", features, np.float32, n, dim)
        if region_features.shape[1] == 0:
            raise BadRowError("features are empty")
        try:
            text = str(query, "utf-8")
        except UnicodeDecodeError:
            raise BadRowError("query is not UTF-8") from None
        checksum = xxhash.xxh3_64()
        for field in (image_h, image_w, boxes, features):
            checksum.update(field)
        return Row(
            _integer("product_id", product_id),
            height,
            width,
            _array("boxes", boxes, np.float32, n, 4),
            region_features,
            _array("class_labels", labels, np.int64, n, 1)[:, 0],
            text,
            _integer("query_id", query_id),
            checksum.intdigest(),
            len(line),
        )


def _integer(name: str, field: memoryview) -> int:
    digits = bytes(field[:40])
    if not digits.isdigit() or len(digits) > 18:
        raise BadRowError(f"{name} must be a whole number, found {digits.decode(errors='replace')!r}")
    return int(digits)


def _array(name: str, field: memoryview, dtype: type, n: int, dim: int | None) -> np.ndarray:
    """[n, dim] from base64; ``dim`` None takes what the bytes give."""
    try:
        data = pybase64.b64decode_as_bytearray(field, validate=True)
    except binascii.Error as error:
        raise BadRowError(f"{name} is not base64 ({error})") from None
    item = np.dtype(dtype).itemsize
    if len(data) % (n * item) or (dim is not None and len(data) != n * dim * item):
        expected = f"a multiple of {n * item}" if dim is None else f"{n} × {dim} × {item} = {n * dim * item}"
        raise BadRowError(f"{name} has {len(data)} bytes, expected {expected} for num_boxes {n}")
    array = np.frombuffer(data, dtype).reshape(n, -1)
    # NaN and infinity show in the extremes.
    if dtype is np.float32 and array.size and not (np.isfinite(array.max()) and np.isfinite(array.min())):
        raise BadRowError(f"{name} holds a number that is not finite")
    return array


def base64_text(array: np.ndarray) -> str:
    """The base64 of an array's bytes, as the table holds it."""
    return pybase64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
