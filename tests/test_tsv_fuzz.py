import gzip
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kddcup.io.errors import UserError
from kddcup.table import lines
from kddcup.table.rows import COLUMNS, BadRow, Row
from kddcup.table.table import Table
from tests.conftest import table_row, write_table

HEADER = "\t".join(COLUMNS).encode() + b"\n"


def good_lines():
    with tempfile.TemporaryDirectory() as folder:
        rows = [table_row(i, i, 'a "red" dress, 红色', 1 + i) for i in range(3)]
        return write_table(Path(folder) / "t.tsv", rows).read_bytes().splitlines(keepends=True)[1:]


GOOD = good_lines()
CELLS = [
    *(b"", b"0", b"-1", b"007", b"1e3", b"nan", b"9" * 18, b"9" * 19, b"\xc2\xb2", b"\xff", b"\x00", b" 1"),
    *(b"AAAA", b"AB==", b"AAA", b"====", b"A" * 64, b"\r", b"a\rb", b"AACAfwAAgH8=", b"AADAfw=="),
]


@st.composite
def mutated(draw):
    """Good lines with cells replaced, bytes changed, and pieces cut out, doubled or exchanged."""
    content = b"".join(draw(st.lists(st.sampled_from(GOOD), min_size=1, max_size=4)))
    for _ in range(draw(st.integers(1, 4))):
        start, stop = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        kind = draw(st.sampled_from(["cell", "bytes", "cut", "double", "byte"]))
        if kind == "cell":
            cells = content.split(b"\t")
            cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from(CELLS))
            content = b"\t".join(cells)
        elif kind == "bytes":
            content = content[:start] + draw(st.binary(max_size=20)) + content[start:]
        elif kind == "cut":
            content = content[:start] + content[stop:]
        elif kind == "double":
            content = content[:stop] + content[start:]
        else:
            content = (
                content[:start] + draw(st.sampled_from([b"\t", b"\n", b"\r", b"=", b"\0"])) + content[stop:]
            )
    return content


def read(content, name="t.tsv"):
    """The rows of a file of these bytes, and the user's error if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return list(Table(path).read()), None
        except UserError as error:
            return [], error


def meaning(row):
    """All that a row says."""
    fields = row._asdict()
    for name in ("digest", "place", "size", "checksum"):
        del fields[name]
    return {
        name: value.tobytes() + repr(value.shape).encode() if isinstance(value, np.ndarray) else value
        for name, value in fields.items()
    }


def as_written(row):
    """The row as the rows of a table are made."""
    return {
        **{name: getattr(row, name) for name in COLUMNS if name != "num_boxes"},
        "num_boxes": len(row.boxes),
    }


def assert_round_trip(rows):
    good = [row for row in rows if isinstance(row, Row)]
    for row in good:
        n, dim = row.features.shape
        assert n >= 1
        assert dim >= 1
        assert row.boxes.shape == (n, 4)
        assert row.class_labels.shape == (n,)
        assert np.isfinite(row.features).all()
        assert np.isfinite(row.boxes).all()
    with tempfile.TemporaryDirectory() as folder:
        path = write_table(Path(folder) / "t.tsv", map(as_written, good))
        again = list(Table(path).read())
        first = path.read_bytes()
        assert write_table(path, map(as_written, again)).read_bytes() == first
    assert list(map(meaning, again)) == list(map(meaning, good))
    for row in rows:
        if isinstance(row, BadRow):
            assert row.kind
            assert row.detail.isprintable()


@settings(max_examples=300, deadline=None)
@given(mutated())
def test_what_is_made_of_a_mutated_row_round_trips_or_is_a_bad_row(content):
    rows, error = read(HEADER + content)
    assert error is None
    assert_round_trip(rows)
    assert sum(row.size for row in rows) == len(content)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_are_a_table_or_a_users_error(content, with_header):
    rows, error = read(HEADER * with_header + content)
    assert_round_trip(rows)
    assert error is None or "\n" not in str(error)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.binary(max_size=8), st.booleans())
def test_a_packed_table_with_bytes_cut_changed_or_added_is_read_whole_or_refused(place, other, cut):
    whole = gzip.compress(HEADER + b"".join(GOOD), mtime=0)
    place %= len(whole) + 1
    content = whole[:place] + other + (b"" if cut else whole[place + len(other) :])
    rows, error = read(content, "t.tsv.gz")
    if error is None:
        assert_round_trip(rows)
        assert [row.digest for row in rows] == [row.digest for row in read(HEADER + b"".join(GOOD))[0]]
    else:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["t.tsv", "t.tsv.gz"])
def test_a_line_longer_than_any_row_is_refused_without_reading_it_all(tmp_path, monkeypatch, name):
    monkeypatch.setattr(lines, "MAX_LINE", 2000)
    content = HEADER + GOOD[0] + b"7" * 10_000_000
    rows, error = read(gzip.compress(content) if name.endswith("gz") else content, name)
    assert rows == []
    assert f"{len(HEADER + GOOD[0]):,}" in str(error)
    assert "longer than" in str(error)
    longest = GOOD[0].rstrip(b"\n").ljust(1999, b"1") + b"\n"
    assert read(HEADER + longest)[1] is None


def test_a_column_named_twice_is_refused(tmp_path):
    path = write_table(tmp_path / "t.tsv", [table_row(1, 1, "a")], [*COLUMNS, "query"])
    with pytest.raises(UserError, match="line 1: the header has query twice"):
        Table(path)
