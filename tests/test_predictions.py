import json
from pathlib import Path

import ir_measures
import numpy as np
import pytest

from kddcup.io.errors import UserError
from kddcup.rank.metrics import ndcg_per_query
from kddcup.rank.predictions import (
    check_answered,
    ranking,
    read_answers,
    read_predictions,
    write_predictions,
    write_submission,
)
from kddcup.rank.trec import from_qrels, from_run, to_qrels, to_run
from kddcup.table.labels import read_labels
from kddcup.table.products import ListedProduct
from tests.conftest import assert_one_line_error, run_script

CONVERSIONS = {function.__name__: function for function in (to_run, from_run, to_qrels, from_qrels)}
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


def test_ids_have_64_bits_everywhere(tmp_path):
    least, largest = -(2**63), 2**63 - 1
    predictions = {str(least): [(largest, 1.0), (least, 0.5)], str(largest): [(least, 1.0)]}
    write_predictions(tmp_path / "p.json", predictions)
    converted("to_run", tmp_path / "p.json", tmp_path / "run")
    converted("from_run", tmp_path / "run", tmp_path / "back.json")
    assert read_predictions(tmp_path / "back.json", COMMAND) == predictions
    answers = {str(least): [largest, least]}
    (tmp_path / "a.json").write_text(json.dumps(answers))
    converted("to_qrels", tmp_path / "a.json", tmp_path / "qrels")
    converted("from_qrels", tmp_path / "qrels", tmp_path / "b.json")
    assert read_answers(tmp_path / "b.json") == answers
    (tmp_path / "multimodal_labels.txt").write_text(f"id\tname\n{least}\tfirst\n{largest}\tlast\n")
    assert read_labels(tmp_path) == {least: "first", largest: "last"}


def test_product_ids_may_be_strings_and_scores_whole_numbers(tmp_path):
    path = written(tmp_path, {"1": [["9", 1], [2, 0.5]]})
    assert read_predictions(path, COMMAND) == {"1": [(9, 1.0), (2, 0.5)]}


@pytest.mark.parametrize("number", [-(2**63), -1, 10**18, 2**63 - 1])
def test_product_ids_have_64_bits(tmp_path, number):
    for written_so in (number, str(number)):
        path = written(tmp_path, {"1": [[written_so, 0.5]]})
        assert read_predictions(path, COMMAND) == {"1": [(number, 0.5)]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ([], "not an object of query ids"),
        ({}, "not an object of query ids"),
        ("3", "not an object of query ids"),
        ({"1": []}, "query 1: expected a list of [product_id, score]"),
        ({"1": {"7": 0.5}}, "query 1: expected a list"),
        ({"0": [[7, 0.5]], "1": [7, 8]}, "query 1: expected a list"),
        ({"1": [[7]]}, "query 1: expected a list"),
        ({"1": [[7, 0.5, 1]]}, "query 1: expected a list"),
        ({"1": [[7.5, 0.5]]}, "query 1: expected a list"),
        ({"1": [[True, 0.5]]}, "query 1: expected a list"),
        ({"1": [["seven", 0.5]]}, "query 1: expected a list"),
        ({"1": [["7" * 5000, 0.5]]}, "query 1: expected a list"),
        ({"1": [["²", 0.5]]}, "query 1: expected a list"),
        ({"1": [[2**63, 0.5]]}, "an id being a whole number from -2^63 to 2^63 - 1"),
        ({"1": [[-(2**63) - 1, 0.5]]}, "an id being a whole number from -2^63 to 2^63 - 1"),
        ({"1": [[str(2**63), 0.5]]}, "an id being a whole number from -2^63 to 2^63 - 1"),
        ({"1": [[7, "high"]]}, "query 1: expected a list"),
        ({"1": [[7, None]]}, "query 1: expected a list"),
        ('{"1": [[7, NaN]]}', "it has NaN for a number"),
        ('{"1": [[7, Infinity]]}', "it has Infinity for a number"),
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
    "content",
    [
        "{",
        [],
        {},
        {"1": []},
        {"1": 7},
        {"1": ["7"]},
        {"1": [7.0]},
        {"1": [True]},
        {"1": [[7]]},
        {"1": [2**63]},
    ],
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


def test_the_submission_names_products_by_the_shops_own_ids(tmp_path):
    products = {1: ListedProduct(1, "007", "", ""), 2: ListedProduct(2, "a, b", "", "")}
    write_submission(tmp_path / "submission.csv", {"31": [(2, 0.9), (1, 0.5), (3, 0.1)]}, products)
    assert (tmp_path / "submission.csv").read_text().splitlines()[1] == '31,"a, b",007,3,,'


def converted(conversion, source, target):
    """What a conversion writes."""
    CONVERSIONS[conversion](str(source), str(target))
    return target.read_text()


def test_predictions_become_a_run_and_come_back_to_the_byte(tmp_path):
    predictions = {
        "12": [(7, 0.1 + 0.2), (3, -1e-9)],
        "5": [(9, 1.0), (2, 0.5), (8, 0.5), (1, 0.5), (4, -2.5e-300)],
    }
    write_predictions(tmp_path / "valid pred.json", predictions)
    assert converted("to_run", tmp_path / "valid pred.json", tmp_path / "run") == (
        "12 Q0 7 1 0.30000000000000004 valid_pred\n"
        "12 Q0 3 2 -1e-09 valid_pred\n"
        "5 Q0 9 1 1.0 valid_pred\n"
        "5 Q0 2 2 0.5 valid_pred\n"
        "5 Q0 8 3 0.5 valid_pred\n"
        "5 Q0 1 4 0.5 valid_pred\n"
        "5 Q0 4 5 -2.5e-300 valid_pred\n"
    )
    back = converted("from_run", tmp_path / "run", tmp_path / "back.json")
    assert back == (tmp_path / "valid pred.json").read_text()


def test_a_run_of_any_origin_is_ordered_by_score_and_then_by_rank(tmp_path):
    run = tmp_path / "run"
    start = b"\xef\xbb\xbfb Q0 1 1 1 t\r\na\tQ0\t1 2 0.5 t\n\n"
    run.write_bytes(start + b" a Q0 2 1 0.5 t \na Q0 3 9 7e-1 t\na Q0 4 1 0.1 t")
    assert json.loads(converted("from_run", run, tmp_path / "p.json")) == {
        "b": [[1, 1.0]],
        "a": [[3, 0.7], [2, 0.5], [1, 0.5], [4, 0.1]],
    }


def test_answers_become_qrels_and_come_back_to_the_byte(tmp_path):
    (tmp_path / "a.json").write_text('{"3": [7, 8], "1": [9]}\n')
    assert converted("to_qrels", tmp_path / "a.json", tmp_path / "qrels") == "3 0 7 1\n3 0 8 1\n1 0 9 1\n"
    assert converted("from_qrels", tmp_path / "qrels", tmp_path / "b.json") == '{"3": [7, 8], "1": [9]}\n'


def test_what_qrels_judge_irrelevant_is_no_answer(tmp_path, capsys):
    (tmp_path / "qrels").write_text("1 0 7 2\n1 0 8 0\n2 0 7 0\n1 0 9 -1\n3 0 6 1\n")
    answers = converted("from_qrels", tmp_path / "qrels", tmp_path / "a.json")
    assert json.loads(answers) == {"1": [7], "3": [6]}
    expected = f"{tmp_path / 'qrels'}: 1 queries have no relevant product and are left out\n"
    assert capsys.readouterr().out == expected


def test_ir_measures_finds_the_same_figures_in_run_and_qrels(tmp_path):
    rng = np.random.default_rng(0)
    predictions, answers = {}, {}
    for query in map(str, range(40)):
        products = rng.permutation(30)[: rng.integers(1, 20)].tolist()
        scores = np.sort(rng.random(len(products)))[::-1].tolist()
        predictions[query] = list(zip(products, scores, strict=True))
        answers[query] = rng.permutation(30)[: rng.integers(1, 9)].tolist()  # some are no candidates
    write_predictions(tmp_path / "p.json", predictions)
    (tmp_path / "a.json").write_text(json.dumps(answers))
    converted("to_run", tmp_path / "p.json", tmp_path / "run")
    converted("to_qrels", tmp_path / "a.json", tmp_path / "qrels")
    found = ir_measures.iter_calc(
        [ir_measures.nDCG @ 5],
        ir_measures.read_trec_qrels(str(tmp_path / "qrels")),
        ir_measures.read_trec_run(str(tmp_path / "run")),
    )
    expected = dict(zip(answers, ndcg_per_query(ranking(predictions), answers), strict=True))
    assert {measure.query_id: measure.value for measure in found} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("conversion", "content", "expected"),
    [
        ("from_run", "1 Q0 7 1 0.5 t\n1 Q0 8 2 0.4\n", "line 2: expected query Q0 product rank score tag"),
        ("from_run", "1 Q0 7 1 0.5 t more\n", "line 1: expected query"),
        ("from_run", "\n1 Q0 seven 1 0.5 t\n", "line 2: expected query"),
        ("from_run", "1 Q0 7 first 0.5 t\n", "line 1: expected query"),
        ("from_run", "1 Q0 7 1 high t\n", "line 1: expected query"),
        ("from_run", "1 Q0 7 1 nan t\n", "line 1: expected query"),
        ("from_run", "1 Q0 7 1 1e999 t\n", "line 1: 1e999 is not a finite score"),
        ("from_run", "1 Q0 7 1 1e t\n", "line 1: 1e is not a finite score"),
        (
            "from_run",
            "1 Q0 7 1 0.5 t\n2 Q0 7 1 0.5 t\n1 Q0 07 2 0.4 t\n",
            "line 3: product 7 is listed twice",
        ),
        ("from_run", f"1 Q0 {'9' * 5000} 1 0.5 t\n", "line 1: expected query"),
        (
            "from_run",
            f"1 Q0 {2**63} 1 0.5 t\n",
            "being a whole number from -2^63 to 2^63 - 1",
        ),
        ("from_run", f"1 Q0 7 {2**63} 0.5 t\n", "line 1: expected query"),
        ("from_qrels", f"1 0 {-(2**63) - 1} 1\n", "being a whole number from -2^63 to 2^63 - 1"),
        ("from_run", " \n\n", "is empty: expected lines of query Q0"),
        ("from_run", "1 Q0 7 1 0.5 \udcff\n", "is not UTF-8"),
        ("from_qrels", "1 0 7 1\n1 0 8 1 0.5 t\n", "line 2: expected query 0 product relevance"),
        ("from_qrels", "1 0 7 0.5\n", "line 1: expected query"),
        ("from_qrels", "1 0 7 1\n1 0 7 0\n", "line 2: product 7 is listed twice"),
        ("from_qrels", "1 0 7 0\n", "no product of a relevance above 0"),
        ("to_run", '{"a b": [[7, 0.5]]}', "query id 'a b'"),
        ("to_run", '{"a": 7}', "query a: expected a list"),
        ("to_qrels", '{"": [7]}', "query id ''"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_converted_ends_in_one_line_and_writes_nothing(
    tmp_path, conversion, content, expected
):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError) as caught:
        CONVERSIONS[conversion](str(source), str(target))
    message = str(caught.value)
    assert message.startswith(str(source))
    assert expected in message
    assert "\n" not in message
    assert not target.exists()


def test_the_command_converts_and_a_bad_line_is_a_users_mistake(tmp_path):
    command = ("-m", "kddcup.predictions")
    run, predictions = tmp_path / "run", tmp_path / "p.json"
    run.write_text("1 Q0 7 1 0.5 t\n")
    done = run_script(".", *command, "from_run", run, predictions)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_predictions(predictions, COMMAND) == {"1": [(7, 0.5)]}
    run.write_text("1 Q0 7\n")
    done = run_script(".", *command, "from_run", run, predictions)
    assert_one_line_error(done, f"{run}, line 1: expected query Q0 product rank score tag")


def test_candidates_that_are_not_best_first_are_put_so_and_ties_stay(tmp_path):
    path = written(tmp_path, {"1": [[7, 0.1], [8, 0.9], [9, 0.1]]})
    assert read_predictions(path, COMMAND) == {"1": [(8, 0.9), (7, 0.1), (9, 0.1)]}
