import numpy as np
import pytest

from kddcup.io.folders import MARKER
from kddcup.table.rows import COLUMNS
from tests.conftest import DIM, assert_one_line_error, run_script, table_row, write_table

GOOD = [table_row(1, 10, "red dress"), table_row(2, 11, "blue dress")]


def run(data, *args):
    return run_script(
        ".", "preprocess.py", "--tokenizer", "lexicon", "--size", "small", "--data_dir", data, *args
    )


def assert_refused(data, *expected):
    """The error says all that is expected, and nothing is taken for finished or left but a free lock."""
    assert_one_line_error(run(data), *expected)
    assert not (data / "info" / MARKER).exists()
    found = {path for path in data.rglob("*") if path.is_file()}
    assert found <= {data / "train" / "train.tsv", data / ".lock"}


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({"features": "~" * 64}, "features is not base64"),
        ({"features": np.ones((3, DIM), np.float32)}, "features has 96 bytes, expected 2 × 8 × 4 = 64"),
        ({"num_boxes": 0}, "num_boxes must be a whole number from 1 to"),
        ({"product_id": "1x"}, "product_id must be a whole number from -9,223,372,036,854,775,808 to"),
        ({"query_id": "nan"}, "query_id must be a whole number from"),
    ],
)
def test_a_bad_row_ends_in_one_line_that_names_file_line_and_what_was_expected(tmp_path, bad, expected):
    path = write_table(tmp_path / "train" / "train.tsv", [*GOOD, {**table_row(3, 12, "red"), **bad}, *GOOD])
    assert_refused(tmp_path, f"{path}, line 4: {expected}")


def test_a_row_with_too_few_fields_is_named(tmp_path):
    path = write_table(tmp_path / "train" / "train.tsv", GOOD)
    path.write_bytes(path.read_bytes() + b"3\t200\t400\t2\n")
    assert_refused(tmp_path, f"{path}, line 4: expected 9 tab-separated fields, found 4")


def test_a_missing_column_is_named(tmp_path):
    columns = [column for column in COLUMNS if column != "query_id"]
    path = write_table(tmp_path / "train" / "train.tsv", GOOD, columns)
    assert_refused(tmp_path, f"{path}, line 1: the header lacks query_id; expected ", *COLUMNS)


def test_an_absent_table_says_how_to_get_one(tmp_path):
    done = run(tmp_path)
    assert_one_line_error(done, tmp_path / "train" / "train.tsv", "does not exist", "python -m kddcup.sample")
    assert list(tmp_path.iterdir()) == []


def test_redoing_finished_work_on_a_bad_table_leaves_nothing_that_passes_for_finished(tmp_path):
    path = write_table(tmp_path / "train" / "train.tsv", [*GOOD, table_row(3, 12, "red", num_boxes=0)])
    (tmp_path / "info").mkdir()
    (tmp_path / "info" / MARKER).write_text("{}")
    assert_one_line_error(run(tmp_path, "--force"), f"{path}, line 4")
    assert not (tmp_path / "info" / MARKER).exists()


def test_a_table_with_a_header_and_no_row_is_named(tmp_path):
    path = write_table(tmp_path / "train" / "train.tsv", [])
    assert_refused(tmp_path, f"{path} has a header and no row")
