"""Rows of the training table converted into what is stored of them, by one process or several."""

import contextlib
import ctypes
import functools
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch

from kddcup.data.batch import scale_boxes
from kddcup.io.errors import UserError
from kddcup.io.ragged import Ragged
from kddcup.io.workers import end_with_parent
from kddcup.table.contents import SCALAR_COLUMNS, RowColumns
from kddcup.table.rows import BadRow, Row
from kddcup.table.table import Table

CHUNK_BYTES = 1 << 23
"""The bytes of the table that are converted at a time."""
FLOAT16_OVERFLOW = 65520
"""The least number that rounds to infinity."""
DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass
class Chunk:
    """Successive rows, converted.

    ``columns`` are the n rows without their pictures; ``boxes`` n lists of scaled boxes, [R, 5] float32 in
    all; ``features`` n arrays [·, D] of the store's type, apart since they are large, or None where the image
    was known.
    """

    columns: RowColumns
    boxes: Ragged
    features: list[np.ndarray | None]


@dataclass(frozen=True)
class Converter:
    """Converts a table's rows.

    Args:
        table: to be read.
        dim: D of the features; rows of another are bad.
        dtype: of the features to be stored, ``float16`` or ``float32``.
        max_bad_rows: after more of them, the rest of a chunk is not read.
    """

    table: Table
    dim: int | None
    dtype: str
    max_bad_rows: int

    def convert_from(self, start: int, known: Mapping[int, int], workers: int) -> Iterator[Chunk]:
        """Convert the rows from byte ``start`` on, in order, a chunk of the table at a time.

        Args:
            start: where a line begins.
            known: the checksum of each product's image that has been stored; looked at by this process, the
                others each remember what they have read.
            workers: processes that convert, a few chunks ahead; a compressed table is unpacked and converted
                by this one.

        Raises:
            UserError: the table cannot be read; a process was killed, or could not be started.
        """
        if workers == 1 or self.table.compressed:
            rows = self.table.read(start, dim=self.dim, known=known)
            for _, group in groupby(rows, lambda row: row.place // CHUNK_BYTES):
                yield self.convert(group)
            return
        pending: deque[tuple[Future[Chunk], int]] = deque()
        # Base64 has 3 bytes in 4 letters, and the features, nearly all of a table, were of 4 bytes.
        blocks = Blocks(2 * workers + 1, CHUNK_BYTES * 3 // 16 * DTYPES[self.dtype].itemsize)
        with self._start_workers(workers, blocks) as pool:
            for place, stop in self.table.ranges(CHUNK_BYTES, start):
                if len(pending) == blocks.count:
                    yield from blocks.collect(*pending.popleft())
                block = blocks.free.popleft()
                pending.append((pool.submit(_convert_range, self, place, stop, block), block))
            while pending:
                yield from blocks.collect(*pending.popleft())

    def convert(self, rows: Iterable[Row | BadRow]) -> Chunk:
        """Convert rows."""
        good: list[Row] = []
        features: list[np.ndarray | None] = []
        digests: list[int] = []
        bad: list[list[int | str]] = []
        stop = 0
        for row in rows:
            digests.append(row.digest)
            stop = row.place + row.size
            row = self._check_range(row)
            if isinstance(row, Row):
                features.append(self._convert_features(row))
                good.append(row._replace(features=None))  # its float32 is not needed any more
            else:
                bad.append([len(digests) - 1, row.kind, row.detail])
                if len(bad) > self.max_bad_rows:
                    break
        scalars = {name: np.array([getattr(row, name) for row in good], np.int64) for name in SCALAR_COLUMNS}
        lengths = np.array([len(row.boxes) for row in good], np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        height, width = (np.repeat(scalars[name], lengths) for name in ("image_h", "image_w"))
        pixels = np.concatenate([np.empty((0, 4), np.float32), *(row.boxes for row in good)])
        boxes = scale_boxes(pixels, height, width)
        is_outside = ((boxes[:, :4] < 0) | (boxes[:, :4] > 1)).any(axis=1)
        columns = RowColumns(
            scalars=scalars,
            checksums=_pack_hashes(row.checksum for row in good),
            outside=np.add.reduceat(is_outside.astype(np.int64), offsets[:-1]),
            lengths=lengths,
            class_labels=np.concatenate([np.empty(0, np.int64), *(row.class_labels for row in good)]),
            queries=[row.query for row in good],
            digests=_pack_hashes(digests),
            bad=bad,
            stop=stop,
        )
        return Chunk(columns, Ragged(boxes, offsets), features)

    def _check_range(self, row: Row | BadRow) -> Row | BadRow:
        """The row, or what is wrong with it where a feature is too large for the store."""
        if isinstance(row, BadRow) or self.dtype != "float16" or row.largest < FLOAT16_OVERFLOW:
            return row
        detail = f"a feature is {row.largest:g}, too large for float16: use '--feature_dtype float32'"
        return BadRow("features too large for float16", detail, row.digest, row.place, row.size)

    def _convert_features(self, row: Row) -> np.ndarray | None:
        if row.features is None:
            return None
        # PyTorch converts six times as fast as numpy.
        return torch.from_numpy(row.features).to(DTYPES[self.dtype]).numpy()

    @contextlib.contextmanager
    def _start_workers(self, workers: int, blocks: "Blocks") -> Iterator[ProcessPoolExecutor]:
        advice = "run again with fewer --workers"
        try:
            with ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(blocks,)) as pool:
                yield pool
        except BrokenProcessPool:
            raise UserError(
                f"{self.table.path}: a converting process was killed, perhaps for want of memory: {advice}"
            ) from None
        except OSError as error:
            raise UserError(
                f"{self.table.path}: a converting process cannot be started ({error.strerror}): {advice}"
            ) from None


def _pack_hashes(hashes: Iterable[int]) -> np.ndarray:
    return np.fromiter(hashes, np.uint64).view(np.int64)


class Blocks:
    """Memory that processes share: features go through it, which are too many for a pipe.

    Args:
        count: of the blocks.
        size: of each, in bytes.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count, self._size = count, size
        self._memory = multiprocessing.RawArray(ctypes.c_uint8, count * size)
        self.free = deque(range(count))
        """The blocks that nothing is in."""

    def _view(self, block: int) -> np.ndarray:
        return np.frombuffer(self._memory, np.uint8, self._size, block * self._size)

    def place(self, chunk: Chunk, block: int) -> None:
        """Move a chunk's features into a block, as far as they fit; in the chunk remains where each is."""
        memory, end = self._view(block), 0
        for i, feature in enumerate(chunk.features):
            if feature is not None and end + feature.nbytes <= self._size:
                memory[end : end + feature.nbytes] = feature.reshape(-1).view(np.uint8)
                chunk.features[i] = (end, feature.shape, feature.dtype.str)
                end += feature.nbytes

    def collect(self, future: Future[Chunk], block: int) -> Iterator[Chunk]:
        """Wait for a chunk, unless no line begins in its range; its features are valid until the next one."""
        chunk = future.result()
        memory = self._view(block)
        for i, feature in enumerate(chunk.features):
            if isinstance(feature, tuple):
                start, shape, dtype = feature
                chunk.features[i] = np.frombuffer(memory, dtype, np.prod(shape), start).reshape(shape)
        if len(chunk.columns.digests):
            yield chunk
        self.free.append(block)


def _start_worker(blocks: Blocks) -> None:
    # One thread each: a forked process that starts PyTorch's threads anew would wait for them forever.
    torch.set_num_threads(1)
    end_with_parent()
    _remember().blocks = blocks


def _convert_range(converter: Converter, start: int, stop: int, block: int) -> Chunk:
    memory = _remember()
    chunk = converter.convert(converter.table.read(start, stop, converter.dim, memory.images))
    memory.images.update(chunk.columns.images)
    memory.blocks.place(chunk, block)
    return chunk


@dataclass
class _Memory:
    """What a worker remembers: the checksums, by product, of the images it has converted, and the blocks.

    A worker gets its ranges in the order of the table: what it has sent is stored before what it sends next.
    """

    images: dict[int, int] = field(default_factory=dict)
    blocks: Blocks | None = None


@functools.cache
def _remember() -> _Memory:
    """This worker's memory."""
    return _Memory()
