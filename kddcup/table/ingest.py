"""From the training table to the region store, in one pass."""

import os
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from kddcup.data.batch import BOX_COLUMNS
from kddcup.data.store import STORE_FILES, GrowingArray, write_array
from kddcup.io.atomic import explain_write_error
from kddcup.io.errors import UserError
from kddcup.io.folders import MARKER, write_marker
from kddcup.io.ragged import find_rows
from kddcup.table.bad_rows import BadRows
from kddcup.table.conversion import SCALAR_COLUMNS, Rows, chunks
from kddcup.table.journal import Journal
from kddcup.table.lines import LinesDigest
from kddcup.table.table import Table

COMMIT_BYTES = 1 << 30
"""Of the table, after which the work is flushed to the disk: some seconds' work is lost with a killed run."""
GROWING = ("features.npy", "boxes.npy")


class Ingest:
    """What one pass over the table keeps in memory: numbers per row and product, and the queries' texts.

    The store grows in a folder of its own within ``folder``, beside a :class:`Journal` of what has been
    flushed, and is put into place when it is finished. A run that was interrupted is taken up there: its
    output is that of a run that was not. Both stay until :meth:`forget`, since the journal also has what is
    made into ``DATA/info``.

    Args:
        table: the training table.
        folder: of the store's four arrays.
        dtype: ``float16`` or ``float32``, of the features.
        workers: processes that convert; the output is the same for any number. A compressed table is
            unpacked and converted by one.
        bad_rows: a file to list bad rows in, which are skipped; by default the first ends the run.
        max_bad_rows: how many may be skipped.
    """

    def __init__(
        self,
        table: Table,
        folder: Path,
        dtype: str,
        workers: int,
        bad_rows: Path | None = None,
        max_bad_rows: int = 0,
    ) -> None:
        self._table, self._folder, self._dtype, self._workers = table, folder, dtype, workers
        self._journal = Journal(folder / ".unfinished", "python preprocess.py --force")
        self._digest = LinesDigest(table.header)
        self._columns: dict[str, list[np.ndarray]] = {name: [] for name in SCALAR_COLUMNS}
        self._class_labels: list[np.ndarray] = []
        self._row_lengths: list[np.ndarray] = []
        self._region_offsets = array("q", [0])
        self._checksums: dict[int, int] = {}
        self._place = self._committed = len(table.header)
        self._lines = 0
        self.rows = 0
        self.texts: dict[int, str] = {}
        """By query id, in order of first appearance."""
        self.outside = self.differing = self.renamed = 0
        """Boxes outside their image; later rows of a product, or of a query id, unlike its first."""
        self.bad_rows = BadRows(table, bad_rows, max_bad_rows)

    @property
    def products(self) -> int:
        """How many different products there are."""
        return len(self._checksums)

    @property
    def regions(self) -> int:
        """How many regions the store has."""
        return self._region_offsets[-1]

    @property
    def source(self) -> dict[str, Any]:
        """The table's size and the hash of its contents."""
        return {"table_bytes": self._table.stamp[0], "table_digest": self._digest.hexdigest()}

    def run(self) -> None:
        """Read the table, or what an interrupted run has left of it, and write the store.

        Raises:
            UserError: a row is bad, or too many are; there is none; the table changes meanwhile; a converting
                process is killed; or the store cannot be written.
        """
        (self._folder / MARKER).unlink(missing_ok=True)
        self._resume()
        try:
            self._journal.folder.mkdir(parents=True, exist_ok=True)
            self._write_store()
        except OSError as error:
            raise self._unwritten(error) from None
        finally:
            if not len(self._journal):
                self._journal.clear()

    def forget(self) -> None:
        """Remove the journal, which nothing needs any more."""
        self._journal.clear()

    def _resume(self) -> None:
        entries = list(self._journal.entries())
        if not entries:
            self._journal.clear()
            return
        try:
            reason = self._misfit(entries[-1])
            for entry in () if reason else entries:
                for rows in entry["rows"]:
                    self._admit(Rows(**rows))
                self.outside += entry["outside"]
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{self._journal.folder} is not what this version writes: run 'python preprocess.py --force'"
            ) from None
        if reason:
            print(f"{self._journal.folder}: {reason} since the interrupted run; starting over")
            self._journal.clear()
        else:
            self._committed = self._place
            print(f"going on after {self._lines:,} lines, which an interrupted run has finished")

    def _misfit(self, last: dict[str, Any]) -> str | None:
        """Why the last entry of the journal is not the beginning of this work, if it is not.

        Takes files back that the run had put into place before it was killed.
        """
        if last["feature_dtype"] != self._dtype:
            return "--feature_dtype is another"
        if not self._table.matches(last["stamp"], last["digest"], last["stop"]):
            return f"{self._table.path} has changed"
        for name, size in last["bytes"].items():
            part = self._journal.folder / name
            if not part.exists() and (self._folder / name).exists():
                os.replace(self._folder / name, part)
            if not part.exists() or part.stat().st_size < size:
                return f"{name} has been cut"
        return None

    def _write_store(self) -> None:
        dim = self._table.dimension(self.bad_rows.patience)
        parts = [self._journal.folder / name for name in GROWING]
        shapes = ((dim or 0, self._dtype), (BOX_COLUMNS, "float32"))
        with ExitStack() as stack:
            files = [
                stack.enter_context(open(part, "r+b" if self.regions else "wb", 1 << 20)) for part in parts
            ]
            features, boxes = arrays = [
                GrowingArray(file, *shape, self.regions) for file, shape in zip(files, shapes, strict=True)
            ]
            advance = stack.enter_context(self._table.progress("preprocess", self._place))
            unflushed: list[Rows] = []
            outside = self.outside
            for chunk in chunks(
                self._table,
                self._place,
                dim,
                self._dtype,
                self.bad_rows.patience,
                self._workers,
                self._checksums,
            ):
                advance(chunk.rows.stop - self._place, len(chunk.rows.lengths))
                new = self._admit(chunk.rows)
                offsets = np.concatenate([[0], np.cumsum(chunk.rows.lengths)])
                kept = chunk.boxes[find_rows(offsets, np.array(new, np.int64))[0]]
                self.outside += int(((kept[:, :4] < 0) | (kept[:, :4] > 1)).any(axis=1).sum())
                boxes.append(kept)
                for row in new:
                    features.append(chunk.features[row])
                unflushed.append(chunk.rows)
                if self._place - self._committed >= COMMIT_BYTES:
                    self._commit(unflushed, self.outside - outside, arrays)
                    unflushed, outside = [], self.outside
            if self.rows == 0:
                raise self.bad_rows.rowless()
            if unflushed:
                self._commit(unflushed, self.outside - outside, arrays)
            for one in arrays:
                one.close()
        self.bad_rows.write()
        for part in parts:
            os.replace(part, self._folder / part.name)
        write_array(self._folder / "offsets.npy", np.array(self._region_offsets))
        write_array(self._folder / "product_ids.npy", np.fromiter(self._checksums, np.int64))
        facts = {"feature_dtype": self._dtype, **self.source, "table_stamp": self._table.stamp}
        write_marker(self._folder, STORE_FILES, facts)

    def _commit(self, rows: list[Rows], outside: int, arrays: list[GrowingArray]) -> None:
        sizes = {name: one.flush() for name, one in zip(GROWING, arrays, strict=True)}
        self._table.check_unchanged()
        self._journal.append(
            {
                "feature_dtype": self._dtype,
                "stamp": self._table.stamp,
                "digest": self._digest.hexdigest(),
                "stop": self._place,
                "bytes": sizes,
                "outside": outside,
                "rows": [vars(one) for one in rows],
            }
        )
        self._committed = self._place

    def _admit(self, rows: Rows) -> list[int]:
        """Take up a chunk's rows; gives those of products that were not known yet."""
        for place, kind, detail in rows.bad:
            self.bad_rows.add(self._lines + place, kind, detail)
        self._lines += len(rows.digests)
        self._place = rows.stop
        self._digest.update(rows.digests)
        new = []
        for i, (product, checksum) in enumerate(zip(*rows.images, strict=True)):
            if self._checksums.setdefault(product, checksum) != checksum:
                self.differing += 1
            if len(self._checksums) == len(self._region_offsets):
                new.append(i)
                self._region_offsets.append(self.regions + int(rows.lengths[i]))
        for query, text in zip(rows.columns["query_id"].tolist(), rows.queries, strict=True):
            self.renamed += self.texts.setdefault(query, text) != text
        for name, column in rows.columns.items():
            self._columns[name].append(column)
        self._class_labels.append(rows.class_labels)
        self._row_lengths.append(rows.lengths)
        self.rows += len(rows.lengths)
        return new

    def _unwritten(self, error: OSError) -> UserError:
        """What a user is told who has to make room."""
        # Base64 has 3 bytes in 4 letters, and the features, nearly all of a table, were of 4 bytes.
        left = (self._table.stamp[0] - self._committed) * 3 // 16 * np.dtype(self._dtype).itemsize
        said = explain_write_error(self._journal.folder, error, None if self._table.compressed else left)
        kept = "goes on where the work was last flushed" if len(self._journal) else "starts over"
        return UserError(f"{said}; run again, which {kept}")

    def columns(self) -> dict[str, np.ndarray]:
        """The table without its base64 columns: a column per name, class labels with their offsets."""
        lengths = np.concatenate(self._row_lengths)
        return {
            **{name: np.concatenate(parts) for name, parts in self._columns.items()},
            "class_label": np.concatenate(self._class_labels),
            "class_label_offsets": np.concatenate([[0], np.cumsum(lengths)]),
        }
