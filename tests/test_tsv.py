import gzip
import io
import sys

import numpy as np
import pytest

from kddcup.io.errors import UserError
from kddcup.table.rows import COLUMNS, encode_base64
from kddcup.table.table import Table
from tests.conftest import DIM, table_row, write_table


def rows_of(path):
    return list(Table(path).rows("read"))


def error_of(path):
    with pytest.raises(UserError) as caught:
        rows_of(path)
    return str(caught.value)


def table_with(tmp_path, **bad):
    """A table whose third line has the bad values."""
    good = table_row(1, 10, "red dress")
    return write_table(tmp_path / "train.tsv", [good, {**table_row(2, 11, "blue dress"), **bad}])


def with_one(odd, shape):
    """Ones, and one odd number among them."""
    array = np.ones(shape, np.float32)
    array[1, 2] = odd
    return array


def test_a_row_holds_what_the_line_says(tmp_path):
    boxes = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [0, 0, 1, 1]], np.float32)
    features = np.arange(3 * DIM, dtype=np.float32).reshape(3, DIM)
    labels = np.array([4, 32, 0])
    path = write_table(
        tmp_path / "t.tsv",
        [table_row(7, 9, "red dress", 3, boxes=boxes, features=features, class_labels=labels)],
    )
    (row,) = rows_of(path)
    assert (row.product_id, row.image_h, row.image_w, row.query, row.query_id) == (
        7,
        200,
        400,
        "red dress",
        9,
    )
    np.testing.assert_array_equal(row.boxes, boxes)
    np.testing.assert_array_equal(row.features, features)
    np.testing.assert_array_equal(row.class_labels, labels)
    assert (row.boxes.dtype, row.features.dtype, row.class_labels.dtype) == (np.float32, np.float32, np.int64)


def test_rows_come_in_the_order_of_the_table(tmp_path):
    path = write_table(tmp_path / "t.tsv", [table_row(i, 100 - i, "a b", regions=1 + i) for i in (3, 1, 2)])
    assert [(row.product_id, row.query_id, len(row.boxes)) for row in rows_of(path)] == [
        (3, 97, 4),
        (1, 99, 2),
        (2, 98, 3),
    ]


@pytest.mark.parametrize("query", ['19" monitor', '"quoted', "women's dress", 'a "b" \'c', "红色连衣裙", ""])
def test_quotes_are_letters_like_others(tmp_path, query):
    path = write_table(tmp_path / "t.tsv", [table_row(1, 1, query), table_row(2, 2, "after")])
    assert [row.query for row in rows_of(path)] == [query, "after"]


def test_the_feature_dimension_is_read(tmp_path):
    features = np.ones((2, 5), np.float32)
    path = write_table(tmp_path / "t.tsv", [table_row(1, 1, "a", features=features)])
    assert rows_of(path)[0].features.shape == (2, 5)


def test_columns_are_found_by_name_and_others_ignored(tmp_path):
    columns = ["comment", *reversed(COLUMNS), "price"]
    plain = write_table(tmp_path / "plain.tsv", [table_row(5, 6, "red")])
    path = write_table(tmp_path / "t.tsv", [table_row(5, 6, "red", comment="x", price=3)], columns)
    (row,), (expected,) = rows_of(path), rows_of(plain)
    assert (row.product_id, row.query_id, row.query) == (5, 6, "red")
    np.testing.assert_array_equal(row.features, expected.features)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "save",
    [
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: content + b"\n\r\n \t\n\n",
        lambda content: content + b"\n" * 1000,
        lambda content: content + b"  ",
        lambda content: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n") + b"\r\n",
    ],
    ids=["byte-order mark", "CRLF", "blank lines", "many blank lines", "blanks", "all of them"],
)
def test_a_table_as_editors_save_it_reads_like_the_table(tmp_path, capsys, save, packed):
    path = write_table(tmp_path / "t.tsv", [table_row(1, 10, "red"), table_row(2, 11, "blue")])
    content = save(path.read_bytes())
    path.write_bytes(content)
    if packed:
        path = path.rename(tmp_path / "t.tsv.gz")
        path.write_bytes(gzip.compress(content))
    rows = rows_of(path)
    assert [(row.product_id, row.query, row.query_id) for row in rows] == [(1, "red", 10), (2, "blue", 11)]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("blank", "expected"),
    [
        (b"\n", "line 3: expected 9 tab-separated fields, found 1"),
        (b"\n" * 5000, "more than 1,000 blank lines from byte"),
    ],
)
def test_blank_lines_before_a_row_are_no_rows(tmp_path, blank, expected):
    path = write_table(tmp_path / "t.tsv", [table_row(1, 10, "red")])
    row = path.read_bytes().splitlines(keepends=True)[1]
    path.write_bytes(path.read_bytes() + blank + row)
    assert expected in error_of(path)


def test_a_last_line_without_an_end_is_read_which_is_said(tmp_path, capsys):
    path = write_table(tmp_path / "t.tsv", [table_row(1, 10, "red"), table_row(2, 11, "blue")])
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert [row.query_id for row in rows_of(path)] == [10, 11]
    assert (
        "t.tsv: the last line does not end in a newline; check that the file is complete"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("number", [-(2**63), -1, 0, 10**18, 2**63 - 1])
def test_ids_have_64_bits(tmp_path, number):
    (row,) = rows_of(
        write_table(
            tmp_path / "t.tsv", [{**table_row(5, 6, "red"), "product_id": number, "query_id": number}]
        )
    )
    assert (row.product_id, row.query_id) == (number, number)


def test_the_features_of_a_known_image_are_not_decoded_again_and_those_of_any_other_are(tmp_path):
    first = table_row(1, 10, "red dress")
    path = write_table(
        tmp_path / "t.tsv",
        [
            first,
            {**first, "query": "retro dress", "query_id": 11},
            {**first, "features": first["features"] + 1},
            {**first, "product_id": 2},
            {**first, "num_boxes": 1},
        ],
    )
    checksum = rows_of(write_table(tmp_path / "one.tsv", [first]))[0].checksum
    *rows, bad = Table(path).read(known={1: checksum})
    assert [row.features is None for row in rows] == [True, True, False, False]
    assert [row.checksum == checksum for row in rows] == [True, True, False, True]
    assert bad.kind == "features of a wrong length"
    assert [row.query_id for row in rows] == [10, 11, 10, 10]
    np.testing.assert_array_equal(rows[1].boxes, first["boxes"])


def test_the_checksum_tells_images_apart_and_leaves_the_query_out(tmp_path):
    first = table_row(1, 10, "red dress")
    other_features = first["features"].copy()
    other_features[0, 0] += 1
    path = write_table(
        tmp_path / "t.tsv",
        [
            first,
            {**first, "query": "retro dress", "query_id": 11},
            {**first, "features": other_features},
            {**first, "boxes": first["boxes"] + 1},
            {**first, "image_h": 201},
        ],
    )
    checksums = [row.checksum for row in rows_of(path)]
    assert checksums[0] == checksums[1]
    assert len(set(checksums)) == 4


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({"product_id": "12a"}, ["product_id", "whole number", "'12a'"]),
        ({"query_id": ""}, ["query_id", "whole number"]),
        ({"query_id": "--3"}, ["query_id", "whole number"]),
        ({"query_id": 2**63}, ["query_id", "to 9,223,372,036,854,775,807, found '9223372036854775808'"]),
        ({"product_id": -(2**63) - 1}, ["product_id", "from -9,223,372,036,854,775,808"]),
        ({"query_id": "1.0"}, ["query_id", "whole number"]),
        ({"product_id": "9" * 30}, ["product_id", "whole number"]),
        ({"image_h": "tall"}, ["image_h", "whole number"]),
        ({"image_w": "0"}, ["image_w", "from 1 to 1,000,000,000, found '0'"]),
        ({"num_boxes": "two"}, ["num_boxes", "whole number"]),
        ({"image_h": "-5"}, ["image_h", "from 1 to"]),
        ({"num_boxes": 0}, ["num_boxes", "from 1 to"]),
        ({"features": "no base64!"}, ["features", "base64"]),
        ({"features": encode_base64(np.ones((2, DIM), np.float32))[:-1]}, ["features", "base64"]),
        ({"boxes": "*"}, ["boxes", "base64"]),
        ({"class_labels": "AAA"}, ["class_labels", "base64"]),
        ({"features": np.ones((2, DIM - 1), np.float32)}, ["features", "56 bytes", "2 × 8 × 4 = 64"]),
        ({"features": ""}, ["features", "0 bytes"]),
        ({"boxes": np.ones((2, 5), np.float32)}, ["boxes", "40 bytes", "2 × 4 × 4 = 32"]),
        ({"class_labels": np.ones(3, np.int64)}, ["class_labels", "24 bytes", "2 × 1 × 8 = 16"]),
        ({"class_labels": np.ones(2, np.int32)}, ["class_labels", "8 bytes", "16"]),
        ({"features": with_one(np.nan, (2, DIM))}, ["features", "not finite"]),
        ({"features": with_one(-np.inf, (2, DIM))}, ["features", "not finite"]),
        ({"boxes": with_one(np.inf, (2, 4))}, ["boxes", "not finite"]),
        ({"boxes": with_one(-2e9, (2, 4))}, ["boxes", "beyond ±1,000,000,000 pixels"]),
        ({"class_labels": np.array([3, -1])}, ["class_labels holds -1", "expected ids from 0"]),
        ({"query": "a\tb"}, ["expected 9", "found 10"]),
    ],
)
def test_a_bad_field_is_named_with_file_and_line(tmp_path, bad, expected):
    path = table_with(tmp_path, **bad)
    message = error_of(path)
    assert message.startswith(f"{path}, line 3: ")
    assert "\n" not in message
    for text in expected:
        assert text in message


@pytest.mark.parametrize("features", ["", np.ones(15, np.float32)])
def test_a_first_row_whose_features_fit_no_dimension_is_refused(tmp_path, features):
    path = write_table(tmp_path / "t.tsv", [table_row(1, 1, "a", features=features)])
    assert error_of(path).startswith(f"{path}, line 2: features")


def test_a_line_with_too_few_fields_is_named(tmp_path):
    path = write_table(tmp_path / "t.tsv", [table_row(1, 10, "red")])
    with open(path, "a") as file:
        file.write("2\t200\t400\n")
    assert (
        error_of(path)
        == f"{path}, line 3: expected 9 tab-separated fields, found 3; fix the row or take it out"
    )


def test_a_query_that_is_not_utf8_is_named(tmp_path):
    path = write_table(tmp_path / "t.tsv", [table_row(1, 10, "QUERY")])
    path.write_bytes(path.read_bytes().replace(b"QUERY", b"\xff\xfe"))
    assert error_of(path) == f"{path}, line 2: query is not UTF-8; fix the row or take it out"


def test_rows_before_the_bad_one_are_given(tmp_path):
    rows = Table(table_with(tmp_path, num_boxes=0)).rows("read")
    assert next(rows).product_id == 1
    with pytest.raises(UserError):
        next(rows)


def test_a_header_that_lacks_columns_names_them(tmp_path):
    columns = [column for column in COLUMNS if column not in ("boxes", "query_id")]
    path = write_table(tmp_path / "t.tsv", [table_row(1, 1, "a")], columns)
    with pytest.raises(UserError) as caught:
        Table(path)
    assert str(caught.value).startswith(f"{path}, line 1: the header lacks boxes, query_id; expected ")


def test_an_absent_an_empty_and_a_rowless_table_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist.*kddcup.sample"):
        Table(tmp_path / "none.tsv")
    with pytest.raises(UserError, match="does not exist"):
        Table(tmp_path)
    (tmp_path / "empty.tsv").write_bytes(b"")
    with pytest.raises(UserError, match="line 1: the header lacks product_id"):
        Table(tmp_path / "empty.tsv")
    assert "no row" in error_of(write_table(tmp_path / "header.tsv", []))


def test_on_a_terminal_the_bar_counts_bytes_and_tells_rows_per_second_and_time_left(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    path = write_table(tmp_path / "t.tsv", [table_row(i, i, "red dress") for i in range(1500)])
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    seen = sum(1 for _ in Table(path).rows("preprocess"))
    last = terminal.getvalue().split("\r")[-1]
    assert seen == 1500
    assert "preprocess: 100%" in last
    assert "B/s" in last
    assert "rows/s" in last
    assert "<00:00" in last


def test_without_a_terminal_there_is_no_bar(tmp_path, capsys):
    rows_of(write_table(tmp_path / "t.tsv", [table_row(1, 1, "a")]))
    assert capsys.readouterr().err == ""
