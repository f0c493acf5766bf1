"""benchmarks.learning: what it trains, what it shows, and that it continues where it was stopped."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import learning
from benchmarks.apart import deal_clusters, write_pairs_apart
from benchmarks.learning import Key, Runs
from kddcup.table.rows import COLUMNS
from tests.conftest import call_main, run_script, table_row, write_table


def test_runs_that_have_a_line_are_known_again(tmp_path):
    runs = Runs(tmp_path / "runs.jsonl")
    key = Key("sample", 1, "model1", "no decay")
    assert not runs.has(key)
    runs.add(key, ("--weight_decay", "0"), 1.5, {"valid": {"7": 0.5}, "testB": {"8": 0.25}})
    again = Runs(tmp_path / "runs.jsonl")
    assert again.has(key, ("--weight_decay", "0"))
    assert not again.has(key, ("--weight_decay", "0.1"))  # a variant that has changed is another
    assert not again.has(Key("sample", 2, "model1", "no decay"), ("--weight_decay", "0"))
    assert again.ndcg("sample", "model1", "no decay", "testB") == {1: np.array([0.25])}


def test_variants_are_compared_by_the_seeds_that_both_have(tmp_path, capsys):
    runs = Runs(tmp_path / "runs.jsonl")
    for seed, recipe in ((1, 0.5), (2, 0.9)):
        figures = {"valid": {"7": recipe, "8": recipe}, "testB": {"9": recipe}}
        runs.add(Key("sample", seed, "model1"), (), 10, figures)
    runs.add(Key("sample", 1, "model1", "off"), (), 20, {"valid": {"7": 0.25, "8": 0.5}, "testB": {"9": 0.0}})
    learning.show_variants(runs, "sample")
    table = capsys.readouterr().out
    assert "| model1 | recipe | 2 | 0.700 |  | 10 |" in table
    assert "| model1 | off | 1 | 0.375 | -0.125 [-0.250, +0.000] | 20 |" in table


def test_recipes_are_compared_with_the_logistic_regression_on_both_tables(tmp_path, capsys):
    runs = Runs(tmp_path / "runs.jsonl")
    runs.add(Key("sample", 0, "logistic"), (), 1, {"valid": {"7": 0.5}, "testB": {"8": 0.5}})
    for seed, figure in ((1, 0.25), (2, 0.75)):
        runs.add(Key("sample", seed, "model1"), (), 1, {"valid": {"7": 1.0}, "testB": {"8": figure}})
    learning.show_recipes(runs, "sample")
    assert "| model1 | 1.000 | 0.500 | +0.250 [+0.000, +0.500] |" in capsys.readouterr().out


def test_clusters_far_from_their_kind_are_held_out():
    """Six places of two photographs each; two of the places lie far from the others."""
    centres = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [9, 9], [-7, -7]])
    features = {i: centres[i // 2] + 0.01 * (i % 2) for i in range(12)}
    split = deal_clusters(features, {key: {"milk"} for key in features})
    assert {i for i, name in split.items() if name == "valid"} == {8, 9}
    assert {i for i, name in split.items() if name == "testB"} == {10, 11}


def test_pairs_apart(tmp_path):
    """What is held out has candidates that its words fit, and train nothing but what it had."""
    groceries, shared = tmp_path / "groceries", tmp_path / "shared"
    shared.mkdir()
    words = {str(i): ["milk"] if i < 40 else ["oat", "milk"] for i in range(80)}
    (shared / "words.json").write_text(json.dumps(words))
    splits = {i: ("train", "train", "valid", "testB")[i % 4] for i in range(80)}
    with (shared / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["query", "product_id", "split", "relevance"], *(["oat milk", i, splits[i], 1] for i in splits)]
        )
    for name in ("train", "valid", "testB"):
        rows = [table_row(i, 1, "milk") for i in splits if splits[i] == name]
        write_table(groceries / name / f"{name}.tsv", rows, COLUMNS)
    write_pairs_apart(groceries, shared, tmp_path / "pairs.csv")
    with (tmp_path / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_split = {
        name: {int(row["product_id"]) for row in rows if row["split"] == name}
        for name in set(splits.values())
    }
    assert all(not by_split["train"] & by_split[name] for name in ("valid", "testB"))
    assert by_split["train"] <= {i for i, name in splits.items() if name == "train"}
    for row in rows:
        assert row["relevance"] == str(int("oat" in words[row["product_id"]])) or row["split"] == "train"


@pytest.mark.slow
def test_a_set_is_trained_and_not_trained_again(sample_dir: Path, tmp_path, monkeypatch):
    """With the embedded sample, made small, in the place of the set; every run ends in a line."""

    shutil.copytree(sample_dir, tmp_path / "sample")
    call_main("preprocess", "--data_dir", tmp_path / "sample", "--size", "small", "--tokenizer", "lexicon")
    flags = ("--sets", "sample", "--seeds", 1, "--recipes", "--work", tmp_path)
    done = run_script(".", "-m", "benchmarks.learning", *flags)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "runs.jsonl").read_text()
    stages = {run["stage"] for run in map(json.loads, lines.splitlines())}
    assert stages == {*learning.BASELINES, *learning.VARIANTS, *learning.BLENDS}
    again = run_script(".", "-m", "benchmarks.learning", *flags)
    assert again.stdout == done.stdout
    assert (tmp_path / "runs.jsonl").read_text() == lines
