"""From the training table to the region store: one pass, which a later run takes up if it is interrupted."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kddcup.data.batch import BOX_COLUMNS
from kddcup.data.store import STORE_FILES, GrowingArray, write_array
from kddcup.io.atomic import explain_write_error
from kddcup.io.errors import UserError
from kddcup.io.files import read_pickle, write_pickle
from kddcup.io.folders import MARKER, write_marker
from kddcup.table.contents import Contents, RowColumns
from kddcup.table.conversion import Converter
from kddcup.table.table import BadRows, Table

COMMIT_BYTES = 1 << 30
"""The bytes of the table between flushes to the disk; a killed run loses the seconds since the last one."""
BUFFER_BYTES = 1 << 20
GROWING_FILES = ("features.npy", "boxes.npy")
REDO = "python preprocess.py --force"


class Ingest:
    """One pass over the training table, which writes the region store.

    The store grows in a folder of its own within ``folder``, beside a :class:`Journal` of what has been
    flushed, and is moved into place when it is finished. A run that was interrupted is taken up there: its
    output is that of a run that was not. Both stay until :meth:`forget`, since ``DATA/info`` is written from
    what the journal has.

    Args:
        table: the training table.
        folder: of the store's four arrays.
        dtype: ``float16`` or ``float32``, of the features.
        workers: processes that convert; the output is the same for any number. A compressed table is
            unpacked and converted by one.
        bad_rows: a file to list bad rows in, which are skipped; by default the first ends the run.
        max_bad_rows: how many may be skipped.

    Attributes:
        contents: what has been read.
        bad_rows: what was skipped.
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
        self._journal = Journal(folder / ".unfinished")
        self._committed = len(table.header)
        self.contents = Contents(table.header)
        self.bad_rows = BadRows(table, bad_rows, max_bad_rows)

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
            self._write_regions()
            self._complete_store()
        except OSError as error:
            raise UserError(self._explain_write_error(error)) from None
        finally:
            if not len(self._journal):
                self._journal.clear()

    def forget(self) -> None:
        """Remove the journal, which nothing needs any more."""
        self._journal.clear()

    def _resume(self) -> None:
        """Take up what an interrupted run has read, unless it was something else."""
        entries = self._journal.read()
        if not entries:
            self._journal.clear()
            return
        try:
            change = self._find_change(entries[-1])
            for entry in entries if change is None else ():
                for rows in entry["rows"]:
                    self._add(RowColumns(**rows))
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{self._journal.folder} is not what this version writes: run '{REDO}'") from None
        if change is None:
            self._committed = self.contents.stop
            print(f"continuing after {self.contents.lines:,} lines, which an interrupted run has finished")
        else:
            print(f"{self._journal.folder}: {change} since the interrupted run; starting over")
            self._journal.clear()

    def _find_change(self, last: dict[str, Any]) -> str | None:
        """What is another than when the last entry of the journal was written, if anything is.

        Takes files back that the run had moved into place before it was killed.
        """
        if last["feature_dtype"] != self._dtype:
            return "--feature_dtype has changed"
        if not self._table.matches(last["stamp"], last["digest"], last["stop"]):
            return f"{self._table.path} has changed"
        for name, size in last["bytes"].items():
            part = self._journal.folder / name
            if not part.exists() and (self._folder / name).exists():
                os.replace(self._folder / name, part)
            if not part.exists() or part.stat().st_size < size:
                return f"{name} has been cut"
        return None

    def _write_regions(self) -> None:
        """Append the regions of each new product, chunk by chunk of the table, to arrays that grow."""
        dim = self._table.read_dimension(self.bad_rows.limit)
        converter = Converter(self._table, dim, self._dtype, self.bad_rows.limit)
        progress = self._table.show_progress("preprocess", self.contents.stop)
        with self._open_arrays(dim or 0) as arrays, progress as advance:
            features, boxes = arrays
            uncommitted: list[RowColumns] = []
            for chunk in converter.convert_from(self.contents.stop, self.contents.checksums, self._workers):
                advance(chunk.columns.stop - self.contents.stop, len(chunk.features))
                new = self._add(chunk.columns)
                boxes.append(chunk.boxes.take(new).values)
                for place in new:
                    features.append(chunk.features[place])
                uncommitted.append(chunk.columns)
                if self.contents.stop - self._committed >= COMMIT_BYTES:
                    self._commit(uncommitted, arrays)
                    uncommitted = []
            if self.contents.rows == 0:
                self.bad_rows.refuse_table()
            if uncommitted:
                self._commit(uncommitted, arrays)
            for array in arrays:
                array.close()

    @contextlib.contextmanager
    def _open_arrays(self, dim: int) -> Iterator[list[GrowingArray]]:
        regions = self.contents.regions
        how = {"mode": "r+b" if regions else "wb", "buffering": BUFFER_BYTES}
        features, boxes = (self._journal.folder / name for name in GROWING_FILES)
        with open(features, **how) as features_file, open(boxes, **how) as boxes_file:
            yield [
                GrowingArray(features_file, dim, self._dtype, regions),
                GrowingArray(boxes_file, BOX_COLUMNS, "float32", regions),
            ]

    def _add(self, rows: RowColumns) -> np.ndarray:
        """Add the next rows of the table; gives the places of those with a new product."""
        for place, kind, detail in rows.bad:
            self.bad_rows.add(self.contents.lines + place, kind, detail)
        return self.contents.add(rows)

    def _commit(self, rows: list[RowColumns], arrays: list[GrowingArray]) -> None:
        """Flush what has been done, and note it in the journal."""
        sizes = {name: array.flush() for name, array in zip(GROWING_FILES, arrays, strict=True)}
        self._table.check_unchanged()
        self._journal.append(
            {
                "feature_dtype": self._dtype,
                "stamp": self._table.stamp,
                "digest": self.contents.digest.hexdigest(),
                "stop": self.contents.stop,
                "bytes": sizes,
                "rows": [vars(columns) for columns in rows],
            }
        )
        self._committed = self.contents.stop

    def _complete_store(self) -> None:
        """Move the arrays into place, write the small ones beside them, and mark the store as finished."""
        self.bad_rows.write()
        for name in GROWING_FILES:
            os.replace(self._journal.folder / name, self._folder / name)
        write_array(self._folder / "offsets.npy", np.array(self.contents.offsets))
        write_array(self._folder / "product_ids.npy", np.fromiter(self.contents.checksums, np.int64))
        facts = {
            "feature_dtype": self._dtype,
            "table_digest": self.contents.digest.hexdigest(),
            "table_stamp": self._table.stamp,
        }
        write_marker(self._folder, STORE_FILES, facts)

    def _explain_write_error(self, error: OSError) -> str:
        # Base64 has 3 bytes in 4 letters, and the features, nearly all of a table, were of 4 bytes.
        left = (self._table.stamp[0] - self._committed) * 3 // 16 * np.dtype(self._dtype).itemsize
        reason = explain_write_error(self._journal.folder, error, None if self._table.compressed else left)
        kept = "goes on where the work was last flushed" if len(self._journal) else "starts over"
        return f"{reason}; run again, which {kept}"


class Journal:
    """What an unfinished pass has done: a folder of entries, with the files that they are about beside them.

    Args:
        folder: of the entries.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0

    def __len__(self) -> int:
        """How many entries have been read or appended."""
        return self._count

    def read(self) -> list[dict[str, Any]]:
        """Read all entries in order.

        Raises:
            UserError: an entry cannot be read.
        """
        entries = []
        while self._path(len(entries)).is_file():
            entries.append(read_pickle(self._path(len(entries)), REDO))
        self._count = len(entries)
        return entries

    def append(self, entry: dict[str, Any]) -> None:
        """Write the next entry; what it is about has been flushed."""
        write_pickle(self._path(self._count), entry)
        self._count += 1

    def clear(self) -> None:
        """Remove the folder and forget all."""
        # First what makes the rest count, lest a kill in between leaves entries without what they are about.
        self._path(0).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._count = 0

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05}.pkl"
