"""A row of the competition's table: tab-separated, no quoting, arrays as base64."""

import binascii
import math
from typing import NamedTuple

import numpy as np
import pybase64

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
MAX_PIXELS = 1e9
"""No coordinate of a box lies farther out; the areas of such boxes are finite."""


class BadRowError(Exception):
    """A row that does not hold what the header promises.

    Args:
        kind: what is wrong, in words that many rows have in common.
        detail: what was found and what was expected.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


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
    """A line that is no row, and why; the rest as in a row."""

    error: BadRowError
    digest: int
    place: int
    size: int


def _integer(name: str, field: memoryview) -> int:
    digits = bytes(field[:40])
    if not digits.isdigit() or len(digits) > 18:
        found = digits.decode(errors="replace")
        raise BadRowError(f"{name} is no whole number", f"{name} must be a whole number, found {found!r}")
    return int(digits)


def _array(name: str, field: memoryview, dtype: type, n: int, dim: int | None) -> np.ndarray:
    """[n, dim] from base64; ``dim`` None takes what the bytes give."""
    try:
        data = pybase64.b64decode_as_bytearray(field, validate=True)
    except binascii.Error as error:
        raise BadRowError(f"{name} is not base64", f"{name} is not base64 ({error})") from None
    item = np.dtype(dtype).itemsize
    if not data or len(data) % (n * item) or (dim is not None and len(data) != n * dim * item):
        expected = f"a multiple of {n * item}" if dim is None else f"{n} × {dim} × {item} = {n * dim * item}"
        raise BadRowError(
            f"{name} of a wrong length",
            f"{name} has {len(data)} bytes, expected {expected} for num_boxes {n}",
        )
    last = (len(data) - 1) % 3 + 1  # bytes, of the last four letters
    if pybase64.b64encode(data[-last:]) != bytes(field[-4:]):
        raise BadRowError(f"{name} is not base64", f"{name} is not base64 (spare bits are set at its end)")
    return np.frombuffer(data, dtype).reshape(n, -1)


def _largest(name: str, array: np.ndarray) -> float:
    """The largest magnitude; NaN and infinity show in the extremes."""
    high, low = float(array.max()), float(array.min())
    if not (math.isfinite(high) and math.isfinite(low)):
        raise BadRowError(f"{name} is not finite", f"{name} holds a number that is not finite")
    return max(high, -low)


def base64_text(array: np.ndarray) -> str:
    """The base64 of an array's bytes, as the table holds it."""
    return pybase64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
