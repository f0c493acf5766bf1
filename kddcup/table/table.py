"""A table on disk, read row by row, and the rows of it that were refused."""

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from kddcup.io.errors import UserError
from kddcup.io.files import write_text
from kddcup.table.lines import LineFile
from kddcup.table.rows import BadRow, Row, RowParser


class Table(LineFile):
    """A table on disk, read row by row.

    Args:
        path: the ``.tsv`` file; where there is none, ``path`` with ``.gz`` is taken.

    Raises:
        UserError: there is no such file, or its header lacks a column or has one twice.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(path)
        try:
            self._parser = RowParser(self.header)
        except ValueError as error:
            raise UserError(f"{path}, line 1: {error}") from None

    def rows(self, description: str) -> Iterator[Row]:
        """Read all rows in order, under a progress bar in bytes that bears ``description``.

        Raises:
            UserError: a row does not hold what the header promises; names the file, the line and the matter.
        """
        count = 0
        with self.show_progress(description) as advance:
            for row in self.read():
                if isinstance(row, BadRow):
                    self.refuse_row(count, row.detail)
                count += 1
                yield row
                advance(row.size, 1)
        if count == 0:
            self.refuse_empty()

    def read(
        self,
        start: int | None = None,
        stop: int | None = None,
        dim: int | None = None,
        known: Mapping[int, int] = MappingProxyType({}),
    ) -> Iterator[Row | BadRow]:
        """Read the rows whose lines begin at bytes ``start`` to ``stop``; all by default.

        Args:
            start: as in :meth:`lines`, which says what errors there are.
            stop: likewise.
            dim: D of the features; by default, that of the first good row. Rows of another are bad.
            known: the checksum of a product's image that has been read before. Features are most of a table,
                and a product comes again and again: those of the same image are not decoded once more.
        """
        for line in self.lines(start, stop):
            row = self._parser.parse(line, dim, known)
            if isinstance(row, Row) and row.features is not None:
                dim = row.features.shape[1]
            yield row

    def read_dimension(self, max_bad_rows: int) -> int | None:
        """Read D of the first good row; None where more than ``max_bad_rows`` precede it."""
        for row in itertools.islice(self.read(), max_bad_rows + 1):
            if isinstance(row, Row):
                return row.features.shape[1]
        return None

    def refuse_row(self, rows_before: int, detail: str) -> NoReturn:
        """Raise the error of a bad row."""
        raise UserError(f"{self.path}, line {rows_before + 2}: {detail}; fix the row or take it out")

    def refuse_empty(self) -> NoReturn:
        """Raise the error of a table without rows."""
        raise UserError(f"{self.path} has a header and no row: put the whole table there")


class BadRows:
    """The bad rows of a table so far: the first ends the run, or they are skipped and listed in a file.

    Args:
        table: whose rows they are.
        path: a file to list them in; by default the first ends the run.
        limit: how many may be skipped, where there is such a file.

    Attributes:
        rows: line number, kind and detail of each that was skipped.
    """

    def __init__(self, table: Table, path: Path | None = None, limit: int = 0) -> None:
        self._table = table
        self.path = path
        self.limit = limit if path else 0
        self.rows: list[tuple[int, str, str]] = []

    def __len__(self) -> int:
        """How many were skipped."""
        return len(self.rows)

    def add(self, rows_before: int, kind: str, detail: str) -> None:
        """Skip a row that so many rows of the table come before.

        Raises:
            UserError: it may not be skipped, or too many are bad; or the table has been written to.
        """
        # A table that is written to meanwhile has half a line.
        self._table.check_unchanged()
        if not self.path:
            self._table.refuse_row(rows_before, detail)
        self.rows.append((rows_before + 2, kind, detail))
        if len(self.rows) > self.limit:
            self.write()
            raise UserError(
                f"{self._table.path}: more than {self.limit:,} bad rows ({self.count_kinds()}), "
                f"listed in {self.path}: fix the table or raise --max_bad_rows"
            )

    def refuse_table(self) -> NoReturn:
        """Raise the error of a table without good rows, and list its bad ones."""
        if not self.rows:
            self._table.refuse_empty()
        self.write()
        raise UserError(f"{self._table.path} has no good row; {self.path} lists the bad ones")

    def count_kinds(self) -> str:
        """Say how many were skipped for which reason."""
        return ", ".join(f"{kind}: {n:,}" for kind, n in Counter(row[1] for row in self.rows).most_common())

    def write(self) -> None:
        """List them, where they are to be listed."""
        if self.path:
            rows = (("line", "reason", "detail"), *self.rows)
            write_text(self.path, "".join("\t".join(map(str, row)) + "\n" for row in rows))
