"""Rows of the training table made into what is stored of them, by one process or several."""

import contextlib
import functools
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from kddcup.data.batch import scale_boxes
from kddcup.io.errors import UserError
from kddcup.table.rows import BadRow, BadRowError, Row
from kddcup.table.table import Table

CHUNK_BYTES = 1 << 23
SCALAR_COLUMNS = ("product_id", "image_h", "image_w", "query_id")
FLOAT16_OVERFLOW = 65520
"""The least number that rounds to infinity."""
DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass
class Rows:
    """The rows of a byte range without their pictures, as numbers and texts that a journal can hold.

    ``columns`` are the :data:`SCALAR_COLUMNS`, [n] int64 each; ``checksums`` [n] int64; ``lengths`` [n] int64
    regions per row; ``class_labels`` [R] int64 over the regions; ``queries`` n texts. ``digests`` [n + bad]
    int64 of all lines, ``bad`` a list of the position among them, the kind and the detail for each that is no
    row; ``stop`` is where the next line begins.
    """

    columns: dict[str, np.ndarray]
    checksums: np.ndarray
    lengths: np.ndarray
    class_labels: np.ndarray
    queries: list[str]
    digests: np.ndarray
    bad: list[list[int | str]]
    stop: int

    @property
    def images(self) -> tuple[list[int], list[int]]:
        """n product ids, and the checksums of their images as :class:`kddcup.table.rows.Row` has them."""
        return self.columns["product_id"].tolist(), self.checksums.view(np.uint64).tolist()


@dataclass
class Chunk:
    """The rows of a byte range, converted.

    ``boxes`` [R, 5] float32 over the regions; ``features`` n arrays [·, D] of the store's type, apart since
    they are large, or None where the image was known.
    """

    rows: Rows
    boxes: np.ndarray
    features: list[np.ndarray | None]


def convert(lines: Iterable[Row | BadRow], dtype: str, patience: int) -> Chunk:
    """Convert rows.

    Args:
        lines: the rows of a byte range.
        dtype: of the features, ``float16`` or ``float32``.
        patience: bad rows after which the rest need not be read.
    """
    rows: list[Row] = []
    stored: list[np.ndarray | None] = []
    digests: list[int] = []
    bad: list[list[int | str]] = []
    stop = 0
    for line in lines:
        stop = line.place + line.size
        digests.append(line.digest)
        try:
            if isinstance(line, BadRow):
                raise line.error
            stored.append(_stored(line, DTYPES[dtype]))
            rows.append(line._replace(features=None))  # its float32 is not needed any more
        except BadRowError as error:
            bad.append([len(digests) - 1, error.kind, str(error)])
            if len(bad) > patience:
                break
    lengths = np.array([len(row.boxes) for row in rows], np.int64)
    columns = {name: np.array([getattr(row, name) for row in rows], np.int64) for name in SCALAR_COLUMNS}
    height, width = (np.repeat(columns[name], lengths) for name in ("image_h", "image_w"))
    boxes = np.concatenate([row.boxes for row in rows] or [np.empty((0, 4), np.float32)])
    return Chunk(
        Rows(
            columns,
            _hashes(row.checksum for row in rows),
            lengths,
            np.concatenate([row.class_labels for row in rows] or [np.empty(0, np.int64)]),
            [row.query for row in rows],
            _hashes(digests),
            bad,
            stop,
        ),
        scale_boxes(boxes, height, width),
        stored,
    )


def _stored(row: Row, dtype: torch.dtype) -> np.ndarray | None:
    if row.features is None:
        return None
    if dtype == torch.float16 and row.largest >= FLOAT16_OVERFLOW:
        raise BadRowError(
            "features too large for float16",
            f"a feature is {row.largest:g}, too large for float16: use '--feature_dtype float32'",
        )
    # PyTorch converts six times as fast as numpy.
    return torch.from_numpy(row.features).to(dtype).numpy()


def _hashes(numbers: Iterable[int]) -> np.ndarray:
    return np.fromiter(numbers, np.uint64).view(np.int64)


def chunks(
    table: Table,
    start: int,
    dim: int | None,
    dtype: str,
    patience: int,
    workers: int,
    known: Mapping[int, int],
) -> Iterator[Chunk]:
    """The rows from byte ``start`` on, in order, some :data:`CHUNK_BYTES` of the table at a time.

    Args:
        table: to be read.
        start: where a line begins.
        dim: of the features; rows of another are bad.
        dtype: of the features to be stored, ``float16`` or ``float32``.
        patience: bad rows after which the rest of a chunk need not be read.
        workers: processes that convert, a few chunks ahead; a compressed table is unpacked and converted by
            this one.
        known: the checksum of each product's image that has been taken up; looked at by this process, the
            others each remember what they have read.

    Raises:
        UserError: the table cannot be read; a process was killed, or could not be started.
    """
    if workers == 1 or table.compressed:
        lines = table.read(start, dim=dim, known=known)
        for _, some in groupby(lines, lambda line: line.place // CHUNK_BYTES):
            yield convert(some, dtype, patience)
        return
    pending: deque[Future[Chunk]] = deque()
    with _pool(table, workers) as pool:
        for one in table.ranges(CHUNK_BYTES, start):
            pending.append(pool.submit(_convert_range, table, one, dim, dtype, patience))
            if len(pending) > 2 * workers:
                yield from _lines_of(pending.popleft())
        while pending:
            yield from _lines_of(pending.popleft())


def _lines_of(future: Future[Chunk]) -> Iterator[Chunk]:
    """The chunk, unless no line begins in its range."""
    chunk = future.result()
    if len(chunk.rows.digests):
        yield chunk


@contextlib.contextmanager
def _pool(table: Table, workers: int) -> Iterator[ProcessPoolExecutor]:
    try:
        with ProcessPoolExecutor(workers, initializer=_start_worker) as pool:
            yield pool
    except BrokenProcessPool:
        raise UserError(
            f"{table.path}: a converting process was killed, perhaps for want of memory: "
            "run again with fewer --workers"
        ) from None
    except OSError as error:
        raise UserError(
            f"{table.path}: a converting process cannot be started ({error.strerror}): "
            "run again with fewer --workers"
        ) from None


def _start_worker() -> None:
    # One thread each: a forked process that starts PyTorch's threads anew would wait for them forever.
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's processes would outlive a parent that is killed, and hold what it had open."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


@functools.cache
def _read_before() -> dict[int, int]:
    """The checksums, by product, of the images that this worker has converted.

    A worker gets its ranges in the order of the table: what it has sent is taken up before what it sends
    next.
    """
    return {}


def _convert_range(table: Table, one: tuple[int, int], dim: int | None, dtype: str, patience: int) -> Chunk:
    known = _read_before()
    chunk = convert(table.read(*one, dim, known), dtype, patience)
    known.update(zip(*chunk.rows.images, strict=True))
    return chunk
