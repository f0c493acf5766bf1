"""Candidates whose product is listed under one query alone, put first: what it does, and that it is named."""

import json
import re
import shutil

import pytest

from kddcup.rank.blend import Blend
from kddcup.rank.listing import put_listed_once_first
from tests.conftest import SHARED, call_main, table_row, write_table

COMPETITION = SHARED / "kddcup2020"


def test_products_of_one_list_stand_first_and_the_rest_keeps_its_order():
    table = {
        "a": [(1, 0.9), (2, 0.8), (3, 0.7), (4, 0.6)],
        "b": [(3, 2.0), (1, 1.0)],
        "c": [(5, 0.1)],
    }
    assert put_listed_once_first(table) == {
        "a": [(2, 0.8), (4, 0.6), (1, 0.9), (3, 0.7)],
        "b": [(3, 2.0), (1, 1.0)],
        "c": [(5, 0.1)],
    }


def write_inputs(folder):
    """Two models alike, whose best candidate of each query is listed under both; the answers are not."""
    scores = {"1": [[7, 0.9], [8, 0.5]], "2": [[7, 0.9], [9, 0.5]]}
    for table in ("valid", "test"):
        for model in ("model1", "model2"):
            (folder / f"{table}_pred_{model}.json").write_text(json.dumps(scores))
    rows = [(7, 1), (8, 1), (7, 2), (9, 2)]
    write_table(folder / "valid" / "valid.tsv", [table_row(*row, "red dress") for row in rows])
    (folder / "valid" / "valid_answer.json").write_text(json.dumps({"1": [8]}))
    return folder


def test_the_submission_is_made_so_and_everything_names_it(tmp_path):
    write_inputs(tmp_path)
    folders = ("--data_dir", tmp_path, "--resources_dir", tmp_path)
    printed = call_main("ensemble", *folders)
    assert "listed once" not in printed
    assert Blend.read(tmp_path).listed_once is None
    assert (tmp_path / "submission.csv").read_text().splitlines()[1:] == ["1,7,8,,,", "2,7,9,,,"]

    printed = call_main("ensemble", *folders, "--listed_once", "first")
    # 8 is an answer and is listed once, 7 under a query without answers too, which counts.
    assert "  blend             0.630930  " in printed
    assert "  listed once first 1.000000  " in printed
    assert (tmp_path / "submission.csv").read_text().splitlines()[1:] == ["1,8,7,,,", "2,9,7,,,"]
    blend = Blend.read(tmp_path)
    assert blend.listed_once == "first"
    assert blend.figures["valid"].blend == 1.0
    assert blend.figures["valid"].by_scores == pytest.approx(0.630930, abs=1e-6)
    call_main("kddcup.report.__main__", *folders)
    page = (tmp_path / "report.html").read_text()
    assert "listed under one query alone stand first" in page
    assert '<th scope="row">blend, listed once first</th>' in page
    assert re.search(r"blend by its scores</th>\s*<td class=\"number\">0.6309", page)


@pytest.mark.skipif(not COMPETITION.is_dir(), reason="../shared/kddcup2020 is absent")
def test_the_competitions_lists_give_its_answers_away(tmp_path):
    for path in COMPETITION.glob("*_pred_*.json"):
        shutil.copyfile(path, tmp_path / path.name)
    (tmp_path / "valid").mkdir()
    shutil.copyfile(COMPETITION / "valid_answer.json", tmp_path / "valid" / "valid_answer.json")
    folders = ("--data_dir", tmp_path, "--resources_dir", tmp_path)
    printed = call_main("ensemble", *folders, "--listed_once", "first")
    assert "best weight of model1 on valid: 0.676768 (index 67)" in printed
    assert "  blend             0.725990  " in printed
    assert "  listed once first 0.839520  " in printed
