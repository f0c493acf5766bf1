"""Two rankings of the same candidates, side by side."""

import json

import numpy as np
import pytest
from scipy.stats import norm

from kddcup.rank.comparison import randomisation_test
from tests.conftest import assert_one_line_error, run_script, table_row, write_table


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([0.5, 0.2, 0.1], 2 / 8),  # of eight signs all plus is as large, and all minus
        ([0.5, 0.2, -0.1], 4 / 8),  # a sum of 0.6 or more: + + - and + + +, and these turned round
        ([0.3, -0.3], 1),
        ([0.0, 0.0, 0.0], 1),
    ],
)
def test_of_few_queries_all_exchanges_are_counted(differences, expected):
    assert randomisation_test(np.array(differences)) == pytest.approx(expected)


def test_of_many_queries_p_is_that_of_the_normal_approximation():
    differences = np.random.default_rng(0).normal(0.1, 1, 400)
    z = differences.sum() / np.sqrt((differences**2).sum())
    assert randomisation_test(differences) == pytest.approx(2 * norm.sf(abs(z)), abs=0.02)


@pytest.fixture
def files(tmp_path):
    """Query 1 is better under B, query 2 the same, query 3 has no answers."""
    first = {"1": [[7, 0.9], [8, 0.5]], "2": [[7, 0.9], [8, 0.5]], "3": [[7, 1.0]]}
    second = first | {"1": [[8, 0.9], [7, 0.5]]}
    contents = {"a": first, "b": second, "answers": {"1": [8], "2": [7]}, "others": {"9": [7]}}
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    rows = [table_row(product, query, f"query number {query}") for query in (1, 2) for product in (7, 8)]
    write_table(tmp_path / "table.tsv", rows)
    return tmp_path


def compare(folder, *args):
    return run_script(".", "-m", "kddcup.compare", folder / "a.json", folder / "b.json", *args)


def test_means_differences_and_the_queries_that_differ_are_shown(files):
    done = compare(files, "--answers", files / "answers.json", "--table", files / "table.tsv")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == [f"A {files / 'a.json'}", f"B {files / 'b.json'}", "2 queries"]
    # One of two queries went from rank 2, 0.630930, to rank 1; every exchange makes as large a difference.
    assert lines[4] == "NDCG@5     0.815465  1.000000  +0.18454  [+0.0000, +0.3691]  1.0000"
    assert lines[5].startswith("recall@1   0.500000  1.000000  +0.50000  [+0.0000, +1.0000]")
    assert lines[-2:] == [
        "queries that differ most in NDCG@5",
        "  +0.3691  A 0.6309  B 1.0000  query 1  query number 1",
    ]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], ["missing: answers"]),
        (["--answers", "{folder}/others.json"], ["others.json", "query 9"]),
        (["--answers", "{folder}/absent.json"], ["absent.json does not exist"]),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(files, args, expected):
    assert_one_line_error(compare(files, *(arg.format(folder=files) for arg in args)), *expected)
