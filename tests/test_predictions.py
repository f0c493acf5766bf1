import json
from pathlib import Path

import pytest

from kddcup.errors import UserError
from kddcup.predictions import (
    check_answered,
    ranking,
    read_answers,
    read_predictions,
    write_predictions,
    write_submission,
)

COMMAND = "cd model1; python validation.py"


def written(tmp_path, content):
    path = tmp_path / "valid_pred_model1.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_predictions_come_back_as_they_were_written(tmp_path):
    predictions = {"12": [(7, 0.1 + 0.2), (3, -1e-9)], "5": [(103_000_001, 12.5)]}
    write_predictions(tmp_path / "p.json", predictions)
    assert read_predictions(tmp_path / "p.json", COMMAND) == predictions
    assert list(read_predictions(tmp_path / "p.json", COMMAND)) == ["12", "5"]


def test_the_file_has_string_ids_and_pairs(tmp_path):
    write_predictions(tmp_path / "p.json", {"12": [(7, 0.5), (3, 0.25)]})
    assert json.loads((tmp_path / "p.json").read_text()) == {"12": [[7, 0.5], [3, 0.25]]}


def test_ties_keep_their_order(tmp_path):
    predictions = {"1": [(9, 1.0), (2, 0.5), (8, 0.5), (1, 0.5)]}
    write_predictions(tmp_path / "p.json", predictions)
    assert ranking(read_predictions(tmp_path / "p.json", COMMAND)) == {"1": [9, 2, 8, 1]}


def test_product_ids_may_be_strings_and_scores_whole_numbers(tmp_path):
    path = written(tmp_path, {"1": [["9", 1], [2, 0.5]]})
    assert read_predictions(path, COMMAND) == {"1": [(9, 1.0), (2, 0.5)]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ([], "no object of query ids"),
        ({}, "no object of query ids"),
        ("3", "no object of query ids"),
        ({"1": []}, "query 1: expected a list of [product_id, score]"),
        ({"1": {"7": 0.5}}, "query 1: expected a list"),
        ({"0": [[7, 0.5]], "1": [7, 8]}, "query 1: expected a list"),
        ({"1": [[7]]}, "query 1: expected a list"),
        ({"1": [[7, 0.5, 1]]}, "query 1: expected a list"),
        ({"1": [[7.5, 0.5]]}, "query 1: expected a list"),
        ({"1": [[True, 0.5]]}, "query 1: expected a list"),
        ({"1": [["seven", 0.5]]}, "query 1: expected a list"),
        ({"1": [[7, "high"]]}, "query 1: expected a list"),
        ({"1": [[7, None]]}, "query 1: expected a list"),
        ('{"1": [[7, NaN]]}', "query 1: expected a list"),
        ('{"1": [[7, Infinity]]}', "query 1: expected a list"),
        ('{"1": [[7, 1e999]]}', "query 1: expected a list"),
        ('{"1": [[7, 1' + "0" * 400 + "]]}", "query 1: expected a list"),
        ({"1": [[7, 0.5], ["7", 0.4]]}, "query 1: a product is listed twice"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_file_is_named_with_the_matter_and_the_command(tmp_path, content, expected):
    path = written(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read_predictions(path, COMMAND)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert expected in message
    assert COMMAND in message
    assert "\n" not in message


def test_an_absent_file_names_the_command(tmp_path):
    with pytest.raises(UserError, match="none.json does not exist: make it with 'cd model1; python valid"):
        read_predictions(tmp_path / "none.json", COMMAND)


def test_answers_come_back(tmp_path):
    assert read_answers(written(tmp_path, {"3": [7, 8], "1": [9]})) == {"3": [7, 8], "1": [9]}


@pytest.mark.parametrize(
    "content", ["{", [], {}, {"1": []}, {"1": 7}, {"1": ["7"]}, {"1": [7.0]}, {"1": [True]}, {"1": [[7]]}]
)
def test_a_bad_answer_file_says_what_was_expected(tmp_path, content):
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=r"kddcup\.sample --out") as caught:
        read_answers(path)
    assert str(caught.value).startswith(f"{path} is not ")


def test_an_absent_answer_file_says_where_it_comes_from(tmp_path):
    with pytest.raises(UserError, match=r"none\.json does not exist: it comes with the valid table"):
        read_answers(tmp_path / "none.json")


def test_predictions_that_lack_an_answered_query_are_refused_by_name():
    sources = (Path("pred.json"), Path("answer.json"))
    check_answered({"1": [(7, 0.5)], "2": [(8, 0.5), (9, 0.1)]}, {"1": [6], "2": [9, 10]}, sources)
    with pytest.raises(UserError, match=r"^pred\.json lacks query 3 of answer\.json"):
        check_answered({"1": [(7, 0.5)]}, {"1": [7], "3": [7]}, sources)


def test_answers_of_which_none_is_a_candidate_are_refused():
    sources = (Path("pred.json"), Path("answer.json"))
    with pytest.raises(
        UserError, match=r"^answer\.json has no answer that is among the candidates of pred\.json"
    ):
        check_answered({"1": [(7, 0.5)], "2": [(8, 0.5)]}, {"1": [8], "2": [7]}, sources)


def test_the_submission_has_the_five_best_of_each_query_in_file_order(tmp_path):
    predictions = {
        "31": [(product, -product) for product in range(1, 8)],
        "4": [(50, 0.5), (40, 0.4)],
        "9": [(product, 0.0) for product in (5, 3, 4, 1, 2)],
    }
    write_submission(tmp_path / "submission.csv", predictions)
    assert (tmp_path / "submission.csv").read_bytes() == (
        b"query-id,product1,product2,product3,product4,product5\n31,1,2,3,4,5\n4,50,40,,,\n9,5,3,4,1,2\n"
    )
