"""From the training table to the region store, in one pass, by one process or several."""

from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kddcup.files import whole
from kddcup.ragged import flat_rows
from kddcup.regions import BOX_COLUMNS, GrowingArray, scale_boxes, write_array
from kddcup.tsv import BadRowError, Row, Table

CHUNK_BYTES = 1 << 23
COLUMNS = ("product_id", "image_h", "image_w", "query_id")
FLOAT16_OVERFLOW = 65520
"""The least number that rounds to infinity."""
DTYPES = {"float16": torch.float16, "float32": torch.float32}


@dataclass
class Chunk:
    """The rows of a byte range, converted.

    ``columns`` are the :data:`COLUMNS`, [n] int64 each; ``checksums`` n numbers; ``lengths`` [n] int64
    regions per row; ``features`` n arrays [·, D] of the store's type, apart since they are large; over the
    regions, ``boxes`` [R, 5] float32 and ``class_labels`` [R] int64; ``queries`` n texts; ``size`` in bytes;
    ``bad``, if any, says what is wrong with the row after these.
    """

    columns: dict[str, np.ndarray]
    checksums: list[int]
    lengths: np.ndarray
    boxes: np.ndarray
    features: list[np.ndarray]
    class_labels: np.ndarray
    queries: list[str]
    size: int
    bad: str | None


def read_chunk(table: Table, dtype: str, start: int, stop: int) -> Chunk:
    """Convert the rows that begin in a byte range, up to the first bad one."""
    rows: list[Row] = []
    stored: list[np.ndarray] = []
    bad = None
    try:
        for row in table.read(start, stop):
            stored.append(_stored(row.features, DTYPES[dtype]))
            rows.append(row._replace(features=None))  # its float32 is not needed any more
    except BadRowError as error:
        bad = str(error)
    lengths = np.array([len(row.boxes) for row in rows], np.int64)
    columns = {name: np.array([getattr(row, name) for row in rows], np.int64) for name in COLUMNS}
    height, width = (np.repeat(columns[name], lengths) for name in ("image_h", "image_w"))
    return Chunk(
        columns,
        [row.checksum for row in rows],
        lengths,
        scale_boxes(
            np.concatenate([row.boxes for row in rows] or [np.empty((0, 4), np.float32)]), height, width
        ),
        stored,
        np.concatenate([row.class_labels for row in rows] or [np.empty(0, np.int64)]),
        [row.query for row in rows],
        sum(row.size for row in rows),
        bad,
    )


def _stored(features: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    largest = max(features.max(), -features.min())
    if dtype == torch.float16 and largest >= FLOAT16_OVERFLOW:
        raise BadRowError(f"a feature is {largest:g}, too large for float16: use '--feature_dtype float32'")
    # PyTorch converts six times as fast as numpy.
    return torch.from_numpy(features).to(dtype).numpy()


class Ingest:
    """What one pass over the table keeps in memory: numbers per row and product, and the queries' texts.

    Args:
        table: the training table.
        folder: of the store's four arrays.
        dtype: ``float16`` or ``float32``, of the features.
        workers: processes that convert; the output is the same for any number.
    """

    def __init__(self, table: Table, folder: Path, dtype: str, workers: int) -> None:
        self._table, self._folder, self._dtype, self._workers = table, folder, dtype, workers
        self._columns: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        self._class_labels: list[np.ndarray] = []
        self._row_lengths: list[np.ndarray] = []
        self._region_offsets = array("q", [0])
        self._checksums: dict[int, int] = {}
        self._dim: int | None = None
        self.rows = 0
        self.texts: dict[int, str] = {}
        """By query id, in order of first appearance."""
        self.outside = self.differing = self.renamed = 0
        """Boxes outside their image; later rows of a product, or of a query id, unlike its first."""

    @property
    def products(self) -> int:
        """How many different products there are."""
        return len(self._checksums)

    @property
    def regions(self) -> int:
        """How many regions the store has."""
        return self._region_offsets[-1]

    def run(self) -> None:
        """Read the table and write the store.

        Raises:
            UserError: a row is bad, or there is none.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            paths = [
                stack.enter_context(whole(self._folder / name)) for name in ("features.npy", "boxes.npy")
            ]
            features_file, boxes_file = (stack.enter_context(open(path, "wb", 1 << 20)) for path in paths)
            boxes = GrowingArray(boxes_file, BOX_COLUMNS, np.float32)
            features = None
            advance = stack.enter_context(self._table.progress("preprocess"))
            for chunk in self._chunks():
                new, kept = self._admit(chunk)
                if new:
                    features = features or GrowingArray(features_file, self._dim, self._dtype)
                    boxes.append(chunk.boxes[kept])
                for row in new:
                    features.append(chunk.features[row])
                advance(chunk.size, len(chunk.lengths))
            if features is None:
                raise self._table.rowless()
            features.close()
            boxes.close()
        write_array(self._folder / "offsets.npy", np.array(self._region_offsets))
        write_array(self._folder / "product_ids.npy", np.fromiter(self._checksums, np.int64))

    def _chunks(self) -> Iterator[Chunk]:
        """The chunks in order; a few ahead are being converted."""
        ranges = self._table.ranges(CHUNK_BYTES)
        if self._workers == 1:
            yield from (read_chunk(self._table, self._dtype, *one) for one in ranges)
            return
        # One thread each: a forked process that starts PyTorch's threads anew would wait for them forever.
        with ProcessPoolExecutor(self._workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            pending: deque[Future[Chunk]] = deque()
            for one in ranges:
                pending.append(pool.submit(read_chunk, self._table, self._dtype, *one))
                if len(pending) > 2 * self._workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _admit(self, chunk: Chunk) -> tuple[list[int], np.ndarray]:
        """Take up a chunk's rows; gives those of products that were not known yet, and their regions."""
        if chunk.features:
            found = chunk.features[0].shape[1]
            self._dim = self._dim or found
            if found != self._dim:
                raise self._table.refusal(
                    self.rows, f"features are of {found} dimensions, expected {self._dim}"
                )
        new = []
        ids = chunk.columns["product_id"].tolist()
        for i, (product, checksum) in enumerate(zip(ids, chunk.checksums, strict=True)):
            if self._checksums.setdefault(product, checksum) != checksum:
                self.differing += 1
            if len(self._checksums) == len(self._region_offsets):
                new.append(i)
                self._region_offsets.append(self.regions + int(chunk.lengths[i]))
        for query, text in zip(chunk.columns["query_id"].tolist(), chunk.queries, strict=True):
            self.renamed += self.texts.setdefault(query, text) != text
        for name, column in chunk.columns.items():
            self._columns[name].append(column)
        self._class_labels.append(chunk.class_labels)
        self._row_lengths.append(chunk.lengths)
        self.rows += len(ids)
        if chunk.bad:
            raise self._table.refusal(self.rows, chunk.bad)
        offsets = np.concatenate([[0], np.cumsum(chunk.lengths)])
        kept, _ = flat_rows(offsets, np.array(new, np.int64))
        self.outside += int(((chunk.boxes[kept, :4] < 0) | (chunk.boxes[kept, :4] > 1)).any(axis=1).sum())
        return new, kept

    def columns(self) -> dict[str, np.ndarray]:
        """The table without its base64 columns: a column per name, class labels with their offsets."""
        lengths = np.concatenate(self._row_lengths)
        return {
            **{name: np.concatenate(parts) for name, parts in self._columns.items()},
            "class_label": np.concatenate(self._class_labels),
            "class_label_offsets": np.concatenate([[0], np.cumsum(lengths)]),
        }
