"""Records from what people export: CSV as Excel writes it, TSV, JSON lines."""

import csv
import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from kddcup.io.errors import UserError

SHOWN = 10
"""The most rows that do not fit to name; the rest is counted."""


class Record(NamedTuple):
    """A row: its line, counted from 1, and its fields by column; an absent or empty field is ``""``."""

    line: int
    fields: dict[str, str]


class Misfits:
    """The rows of a file that do not fit, collected so that a user sees more than the first.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0
        self._shown: list[str] = []

    def add(self, line: int, reason: str) -> None:
        """Note a row."""
        self._count += 1
        if len(self._shown) < SHOWN:
            self._shown.append(f"line {line}: {reason}")

    def check(self) -> None:
        """Check that every row fitted.

        Raises:
            UserError: some did not; the first ten are named.
        """
        if not self._count:
            return
        rows = "1 row does" if self._count == 1 else f"{self._count:,} rows do"
        more = f"; and {self._count - SHOWN:,} more" if self._count > SHOWN else ""
        raise UserError(
            f"{self._path}: {rows} not fit: {'; '.join(self._shown)}{more}: fix them and run again"
        )


class Spreadsheet:
    """A file of records, read as a whole.

    The form is found from the content: objects, one a line, are JSON lines; else the header tells whether
    fields are separated by commas, semicolons or tabs, and quoted as Excel does. Names of columns are taken
    in lower case.

    Args:
        path: the file, UTF-8 with or without byte-order mark.
        columns: those that are read, others being ignored.

    Attributes:
        path: the file.
        columns: those that it has, of those that are read.
        misfits: rows that do not fit; whoever looks into the fields adds to them.

    Raises:
        UserError: it is absent, is not UTF-8, or a column is there twice.
    """

    def __init__(self, path: Path, columns: Collection[str]) -> None:
        self.path = path
        self.misfits = Misfits(path)
        self._text = _read_text(path)
        self._columns = columns
        self._lines = self._text.lstrip().startswith("{")
        self._header: list[str] = []
        if self._lines:
            self.columns = {key for record in self._json() for key in record.fields if record.fields[key]}
            self.misfits = Misfits(path)  # they come again with the records
            return
        header = self._text.lstrip("\r\n").partition("\n")[0]
        self._separator = max(",;\t", key=header.count)
        self._header = [name.strip().lower() for name in next(self._rows(), (1, []))[1]]
        twice = [name for name in columns if self._header.count(name) > 1]
        if twice:
            raise UserError(f"{path}, line 1: column {twice[0]} is there twice: take one out")
        self.columns = {name for name in self._header if name in columns}

    def records(self) -> Iterator[Record]:
        """The rows in order; those that are no record are added to the misfits and left out."""
        if self._lines:
            yield from self._json()
            return
        rows = self._rows()
        next(rows, None)
        for line, row in rows:
            if not any(field.strip() for field in row):
                continue
            if len(row) != len(self._header):
                self.misfits.add(line, f"it has {len(row)} fields, and the header {len(self._header)}")
                continue
            fields = dict(zip(self._header, row, strict=True))
            yield Record(line, {name: fields.get(name, "").strip() for name in self._columns})

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """The fields of each row, and the line on which it begins."""
        reader = csv.reader(io.StringIO(self._text, newline=""), delimiter=self._separator, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                self.misfits.add(line, f"its quotes do not pair up ({error})")
                continue
            if row or self._header:
                yield line, row

    def _json(self) -> Iterator[Record]:
        for line, text in enumerate(self._text.split("\n"), 1):
            if not text.strip():
                continue
            try:
                content = json.loads(text)
            except (ValueError, RecursionError):
                self.misfits.add(line, "it is not JSON")
                continue
            if not isinstance(content, dict):
                self.misfits.add(line, "it is not a JSON object")
                continue
            content = {key.lower(): value for key, value in content.items()}
            fields = {name: content.get(name) for name in self._columns}
            odd = [name for name, value in fields.items() if not _is_plain(value)]
            if odd:
                self.misfits.add(line, f"{odd[0]} is neither a text nor a whole number")
                continue
            yield Record(
                line, {name: "" if value is None else str(value).strip() for name, value in fields.items()}
            )


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str) or type(value) is int


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name a table of pairs") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line} is not UTF-8: save it as 'CSV UTF-8'") from None
