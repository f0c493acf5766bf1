"""Rows that are refused: the first ends the run, or they are skipped, counted and listed in a file."""

from collections import Counter
from pathlib import Path

from kddcup.io.errors import UserError
from kddcup.io.files import write_text
from kddcup.table.table import Table


class BadRows:
    """The rows of a table that were refused so far.

    Args:
        table: whose rows they are.
        path: a file to list them in; by default the first ends the run.
        most: how many may be skipped.

    Attributes:
        rows: line number, kind and detail of each.
        patience: how many more are of no interest once so many are bad.
    """

    def __init__(self, table: Table, path: Path | None = None, most: int = 0) -> None:
        self._table, self._path = table, path
        self.patience = most if path else 0
        self.rows: list[tuple[int, str, str]] = []

    def __len__(self) -> int:
        """How many were skipped."""
        return len(self.rows)

    def add(self, lines_before: int, kind: str, detail: str) -> None:
        """Take up a row, before which the table has so many lines below its header.

        Raises:
            UserError: it may not be skipped, or too many are bad; or the table has been written to.
        """
        # A table that is written to meanwhile has half a line.
        self._table.check_unchanged()
        if not self._path:
            raise self._table.refusal(lines_before, detail)
        self.rows.append((lines_before + 2, kind, detail))
        if len(self.rows) > self.patience:
            self.write()
            raise UserError(
                f"{self._table.path}: more than {self.patience:,} bad rows ({self.totals()}), "
                f"listed in {self._path}: mend the table or raise --max_bad_rows"
            )

    def rowless(self) -> UserError:
        """What a user is told of a table without a good row, and the list of what it has."""
        if not self.rows:
            return self._table.rowless()
        self.write()
        return UserError(f"{self._table.path} has no good row; {self._path} lists the bad ones")

    def totals(self) -> str:
        """How many were skipped for which reason."""
        return ", ".join(f"{kind}: {n:,}" for kind, n in Counter(row[1] for row in self.rows).most_common())

    def write(self) -> None:
        """List them, where they are to be listed."""
        if self._path:
            rows = (("line", "reason", "detail"), *self.rows)
            write_text(self._path, "".join("\t".join(map(str, row)) + "\n" for row in rows))
