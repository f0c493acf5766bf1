"""A row of the competition's table: tab-separated, no quoting, arrays as base64."""

import binascii
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pybase64
import xxhash

from kddcup.table.lines import Line

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
"""The columns that a table has to have; it may have others, and any order."""
MAX_PIXELS = 10**9
"""The largest size of an image and coordinate of a box; the areas of such boxes are finite."""
INT64 = np.iinfo(np.int64)
"""The range of ids."""
MAX_DIGITS = len(str(INT64.max)) - 1
"""The most digits of a number in a text: with as many, each is an id."""


class Row(NamedTuple):
    """One row: a product's image and a query.

    ``boxes`` [n, 4] float32 are top, left, bottom, right in pixels, ``features`` [n, D] float32, None where
    the reader knows the image, ``largest`` their largest magnitude, ``class_labels`` [n] int64; ``checksum``
    is a 64-bit hash of what the image is, ``digest`` of the whole line, which begins at byte ``place`` and
    has ``size`` bytes.
    """

    product_id: int
    image_h: int
    image_w: int
    boxes: np.ndarray
    features: np.ndarray | None
    largest: float
    class_labels: np.ndarray
    query: str
    query_id: int
    checksum: int
    digest: int
    place: int
    size: int


class BadRow(NamedTuple):
    """A line that is not a row.

    ``kind`` says what is wrong in words that many rows have in common, ``detail`` what was found and what was
    expected; the rest is as in a row.
    """

    kind: str
    detail: str
    digest: int
    place: int
    size: int


class _BadFieldError(Exception):
    """A field that does not hold what it should; its arguments are a bad row's ``kind`` and ``detail``."""


class RowParser:
    """Parses the lines of a table whose header names the columns.

    Args:
        header: the table's first line.

    Raises:
        ValueError: a column is missing, or there twice.
    """

    def __init__(self, header: bytes) -> None:
        # Spreadsheets put a byte-order mark before UTF-8.
        names = header.decode("utf-8-sig", errors="replace").rstrip("\r\n").split("\t")
        missing = [column for column in COLUMNS if column not in names]
        if missing:
            raise ValueError(
                f"the header lacks {', '.join(missing)}; expected the columns {' '.join(COLUMNS)}"
            )
        twice = [column for column in COLUMNS if names.count(column) > 1]
        if twice:
            raise ValueError(f"the header has {', '.join(twice)} twice; take one out")
        self._places = [names.index(column) for column in COLUMNS]
        self._width = len(names)

    def parse(self, line: Line, dim: int | None, known: Mapping[int, int]) -> Row | BadRow:
        """Parse a line.

        Args:
            line: of the table.
            dim: D of the features, None if any will do.
            known: the checksums of images, by product, whose features need not be decoded.
        """
        try:
            return self._parse(line, dim, known)
        except _BadFieldError as error:
            return BadRow(*error.args, line.digest, line.place, len(line.content))

    def _parse(self, line: Line, dim: int | None, known: Mapping[int, int]) -> Row:
        product_id, image_h, image_w, num_boxes, boxes, features, labels, query, query_id = self._split(
            line.content
        )
        product = _parse_integer("product_id", product_id, INT64.min, INT64.max)
        height = _parse_integer("image_h", image_h, 1, MAX_PIXELS)
        width = _parse_integer("image_w", image_w, 1, MAX_PIXELS)
        n = _parse_integer("num_boxes", num_boxes, 1, INT64.max)
        image = xxhash.xxh3_64()
        for field in (image_h, image_w, num_boxes, boxes, features):
            image.update(field)
        checksum = image.intdigest()
        region_features, largest = None, 0.0
        if known.get(product) != checksum:
            region_features = _decode_array("features", features, np.float32, n, dim)
            largest = _find_largest("features", region_features)
        pixels = _decode_array("boxes", boxes, np.float32, n, 4)
        if _find_largest("boxes", pixels) > MAX_PIXELS:
            raise _BadFieldError(
                "boxes far outside", f"boxes holds a coordinate beyond ±{MAX_PIXELS:,} pixels"
            )
        class_labels = _decode_array("class_labels", labels, np.int64, n, 1)[:, 0]
        if class_labels.min() < 0:
            raise _BadFieldError(
                "class_labels is negative", f"class_labels holds {class_labels.min()}, expected ids from 0"
            )
        try:
            text = str(query, "utf-8")
        except UnicodeDecodeError:
            raise _BadFieldError("query is not UTF-8", "query is not UTF-8") from None
        return Row(
            product_id=product,
            image_h=height,
            image_w=width,
            boxes=pixels,
            features=region_features,
            largest=largest,
            class_labels=class_labels,
            query=text,
            query_id=_parse_integer("query_id", query_id, INT64.min, INT64.max),
            checksum=checksum,
            digest=line.digest,
            place=line.place,
            size=len(line.content),
        )

    def _split(self, line: bytes) -> list[memoryview]:
        """The fields of a line in the order of :data:`COLUMNS`; views, since features are large."""
        end = len(line)
        while end and line[end - 1] in b"\r\n":
            end -= 1
        tabs = [-1]
        while len(tabs) <= self._width and (tab := line.find(b"\t", tabs[-1] + 1, end)) >= 0:
            tabs.append(tab)
        if len(tabs) != self._width:
            found = line.count(b"\t") + 1
            raise _BadFieldError(
                "number of fields", f"expected {self._width} tab-separated fields, found {found}"
            )
        tabs.append(end)
        view = memoryview(line)
        return [view[tabs[place] + 1 : tabs[place + 1]] for place in self._places]


def _parse_integer(name: str, field: memoryview, low: int, high: int) -> int:
    text = bytes(field[:40])
    number = int(text) if text.removeprefix(b"-").isdigit() else None
    if number is None or not low <= number <= high:
        kind = f"{name} is not a whole number" if number is None else f"{name} out of range"
        found = text.decode(errors="replace")
        raise _BadFieldError(kind, f"{name} must be a whole number from {low:,} to {high:,}, found {found!r}")
    return number


def _decode_array(name: str, field: memoryview, dtype: type, n: int, dim: int | None) -> np.ndarray:
    """[n, dim] from base64; ``dim`` None takes what the bytes give."""
    try:
        data = pybase64.b64decode_as_bytearray(field, validate=True)
    except binascii.Error as error:
        raise _BadFieldError(f"{name} is not base64", f"{name} is not base64 ({error})") from None
    item = np.dtype(dtype).itemsize
    if not data or len(data) % (n * item) or (dim is not None and len(data) != n * dim * item):
        expected = f"a multiple of {n * item}" if dim is None else f"{n} × {dim} × {item} = {n * dim * item}"
        raise _BadFieldError(
            f"{name} of a wrong length",
            f"{name} has {len(data)} bytes, expected {expected} for num_boxes {n}",
        )
    return np.frombuffer(data, dtype).reshape(n, -1)


def _find_largest(name: str, array: np.ndarray) -> float:
    """The largest magnitude; NaN and infinity show in the extremes."""
    high, low = float(array.max()), float(array.min())
    if not (math.isfinite(high) and math.isfinite(low)):
        raise _BadFieldError(f"{name} is not finite", f"{name} holds a number that is not finite")
    return max(high, -low)


def encode_base64(array: np.ndarray) -> str:
    """Encode an array's bytes as the table holds them."""
    return pybase64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
