import csv
import hashlib
import json
import re
import shutil

import numpy as np
import pytest

from kddcup.io.errors import UserError
from kddcup.io.folders import write_marker
from kddcup.rank.blend import Blend, BlendedModel, Figures
from kddcup.rank.curve import Curve
from kddcup.rank.fusion import normalize, weighted_sum
from kddcup.rank.metrics import ndcg_per_query
from kddcup.rank.predictions import ranking, read_answers, read_models
from kddcup.rank.weights import GRID, CandidateScores
from tests.conftest import SHARED, assert_one_line_error, call_main, run_script

COMPETITION = SHARED / "kddcup2020"
NAMES = ("valid_pred_model1.json", "valid_pred_model2.json", "test_pred_model1.json", "test_pred_model2.json")
MODEL1 = {"4": [[1, 0.9], [2, 0.8], [3, 0.1]], "2": [[5, 2.0], [6, 1.0], [7, 0.5]]}
MODEL2 = {"2": [[7, 0.9], [6, 0.2], [5, 0.1]], "4": [[2, 0.9], [3, 0.3], [1, 0.0]]}
ANSWERS = {"4": [2], "2": [5]}
# Query 4 is right below 0.9, query 2 above 0.8 / 2.3 = 0.348.
BEST = "best weight of model1 on valid: 0.353535 (index 35)"
SUBMISSION = b"query-id,product1,product2,product3,product4,product5\n4,2,1,3,,\n2,5,7,6,,\n"


WITHOUT_TORCH = """
import runpy, sys

class Block:
    def find_spec(self, name, *others):
        if name.partition(".")[0] == "torch":
            raise ImportError(name)

sys.meta_path.insert(0, Block())
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


def write_inputs(folder, **others):
    """Predictions of both models for valid and test, and the answers of valid; ``others`` by bare name."""
    contents = {
        "valid_pred_model1": MODEL1,
        "valid_pred_model2": MODEL2,
        "test_pred_model1": MODEL1,
        "test_pred_model2": MODEL2,
        "valid/valid_answer": ANSWERS,
        **others,
    }
    for name, content in contents.items():
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_text(json.dumps(content))
    return folder


def run(folder, *args):
    """What ``ensemble.py`` prints."""
    return call_main("ensemble", "--data_dir", folder, "--resources_dir", folder, *args)


def refusal(folder, *args):
    """What ``ensemble.py`` says that it cannot do."""
    with pytest.raises(UserError) as caught:
        run(folder, *args)
    return str(caught.value)


def pairs(predictions):
    return {
        query: [tuple(candidate) for candidate in candidates] for query, candidates in predictions.items()
    }


def test_a_blend_is_the_weighted_sum_of_raw_scores():
    blended = weighted_sum([{"1": [(7, 4.0), (8, 2.0)]}, {"1": [(8, 10.0), (7, 0.0)]}], [0.75, 0.25])
    assert blended == {"1": [(8, 4.0), (7, 3.0)]}


def test_a_blend_of_weight_one_or_zero_is_one_model():
    model1, model2 = pairs(MODEL1), pairs(MODEL2)
    assert weighted_sum([model1, model2], [1.0, 0.0]) == model1
    assert weighted_sum([model1, model2], [0.0, 1.0]) == {query: model2[query] for query in model1}


def test_of_equal_scores_the_earlier_of_model1_stands_first():
    model1 = {"1": [(3, 0.5), (9, 0.5), (1, 0.5), (5, 0.5)]}
    model2 = {"1": [(1, 0.5), (9, 0.5), (5, 0.75), (3, 0.5)]}
    assert ranking(weighted_sum([model1, model2], [0.5, 0.5])) == {"1": [5, 3, 9, 1]}


def test_a_blend_keeps_the_order_of_queries():
    assert list(weighted_sum([pairs(MODEL1), pairs(MODEL2)], [0.5, 0.5])) == ["4", "2"]


def test_the_script_reports_the_weight_and_figures_and_writes_the_submission(tmp_path):
    printed = run(write_inputs(tmp_path))
    assert BEST in printed
    figures = dict(re.findall(r"^  (\w+) +(\d\.\d{6})  \[", printed, re.MULTILINE))
    second = 1 / np.log2(3)
    assert figures == {
        "model1": f"{(second + 1) / 2:.6f}",
        "model2": f"{(1 + 0.5) / 2:.6f}",
        "blend": "1.000000",
    }
    assert str(tmp_path / "submission.csv") in printed
    assert "testB" not in printed
    assert (tmp_path / "submission.csv").read_bytes() == SUBMISSION


def test_the_answers_of_the_test_table_are_reported_on_but_choose_nothing(tmp_path):
    printed = run(write_inputs(tmp_path, **{"testB/testB_answer": {"4": [1], "2": [7]}}))
    assert BEST in printed
    valid, test = printed.split("NDCG@5 on testB")
    assert re.search(r"blend +1\.000000", valid)
    assert re.search(r"blend +0\.630930", test)  # both answers at rank 2
    assert (tmp_path / "submission.csv").read_bytes() == SUBMISSION


def without_query(predictions):
    return {"2": predictions["2"]}


def without_product(predictions):
    return {**predictions, "2": predictions["2"][:2]}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(("cut", "expected"), [(without_query, "query 4"), (without_product, "query 2")])
def test_predictions_that_lack_what_the_other_model_has_are_refused(tmp_path, number, cut, expected):
    models = [MODEL1, MODEL2]
    models[number] = cut(models[number])
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, model in zip(paths, models, strict=True):
        path.write_text(json.dumps(model))
    with pytest.raises(UserError) as caught:
        read_models([(path, "python validation.py") for path in paths])
    message = str(caught.value)
    assert message.startswith(f"{paths[number]} lacks ")
    assert expected in message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("valid_pred_model1", without_query(MODEL1), "query 4"),
        ("test_pred_model2", without_product(MODEL2), "product 5 under query 2"),
    ],
)
def test_predictions_that_do_not_fit_are_refused_with_the_command(tmp_path, name, content, expected):
    said = refusal(write_inputs(tmp_path, **{name: content}))
    assert said.startswith(f"{tmp_path / name}.json lacks {expected}")
    assert "python validation.py" in said
    assert not (tmp_path / "submission.csv").exists()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("test_pred_model2", "cd model2; python validation.py"),
        ("valid/valid_answer", "python -m kddcup.sample"),
    ],
)
def test_an_absent_file_ends_in_one_line_that_names_the_command(tmp_path, name, command):
    write_inputs(tmp_path, **{name: None})
    done = run_script(".", "ensemble.py", "--data_dir", tmp_path, "--resources_dir", tmp_path)
    assert_one_line_error(done, f"{tmp_path / name}.json does not exist", command)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", [6.0, 2.0, 2.0, 1.0, -1.0]),
        ("minmax", [1.0, 3 / 7, 3 / 7, 2 / 7, 0.0]),
        ("zscore", [4 / np.sqrt(5.2), 0.0, 0.0, -1 / np.sqrt(5.2), -3 / np.sqrt(5.2)]),
        ("rank", [1.0, 0.625, 0.625, 0.25, 0.0]),
    ],
)
def test_scores_are_normalized_within_their_query(how, expected):
    # Mean 2, squared deviations 16, 0, 0, 1 and 9; ranks 5, 3½, 3½, 2 and 1.
    products, scores = [3, 9, 4, 1, 5], [6.0, 2.0, 2.0, 1.0, -1.0]
    others = {"a": [(1, 1e300)], "b": [(1, 0.1), (2, 0.1), (3, 0.1)]}
    predictions = {"a": others["a"], "q": list(zip(products, scores, strict=True)), "b": others["b"]}
    normalized = normalize(predictions, how)
    assert list(normalized) == ["a", "q", "b"]
    assert [product for product, _ in normalized["q"]] == products
    assert [score for _, score in normalized["q"]] == pytest.approx(expected, abs=1e-15)
    for query, candidates in others.items():
        expected = candidates if how == "none" else [(product, 0.0) for product, _ in candidates]
        assert normalized[query] == expected


@pytest.mark.parametrize("how", ["minmax", "zscore", "rank"])
def test_the_largest_and_the_least_scores_are_normalized_like_others(how):
    for scale in (2.0**1023, 2.0**-1060):
        scaled = normalize({"q": [(1, scale), (2, 0.0), (3, -scale)]}, how)
        assert scaled == normalize({"q": [(1, 1.0), (2, 0.0), (3, -1.0)]}, how)


def test_the_exact_search_reports_its_weights_and_the_cross_validated_figure(tmp_path):
    printed = run(write_inputs(tmp_path), "--search", "exact")
    # The middle of 0.8 / 2.3 and 0.9.
    assert re.search(r"^  model1 0\.623913\n  model2 0\.376087$", printed, re.MULTILINE)
    # Fitted on query 4 alone the weight is 0.45, and on query 2 alone 0.674: both are right for the other.
    assert re.search(r"^  blend +1\.000000 .*\n  cross-validated 1\.000000 ", printed, re.MULTILINE)
    # At that weight, unlike the grid's, product 6 has more than product 7: 0.699 and 0.650.
    assert (tmp_path / "submission.csv").read_bytes() == SUBMISSION.replace(b"5,7,6", b"5,6,7")


def test_the_grid_is_cross_validated_too(tmp_path):
    # Fitted on query 4 alone the weight is 0, which has query 2's answer at rank 3.
    printed = run(write_inputs(tmp_path))
    assert re.search(r"^  cross-validated 0\.750000 ", printed, re.MULTILINE)


def test_one_query_alone_is_not_cross_validated(tmp_path):
    printed = run(write_inputs(tmp_path, **{"valid/valid_answer": {"4": [2]}}))
    assert "cross-validated" not in printed


def test_normalized_scores_are_fitted_and_submitted(tmp_path):
    # As they are, model1's scores drown model2's at every weight of the grid but the first.
    loud = {query: [[product, 1e6 * score] for product, score in model] for query, model in MODEL1.items()}
    write_inputs(tmp_path, valid_pred_model1=loud, test_pred_model1=loud)
    assert not re.search(r"blend +1\.000000", run(tmp_path))
    printed = run(tmp_path, "--normalize", "minmax")
    assert re.search(r"blend +1\.000000", printed)
    assert (tmp_path / "submission.csv").read_bytes() == SUBMISSION


def test_what_was_blended_is_written_beside_the_submission(tmp_path):
    run(write_inputs(tmp_path, **{"testB/testB_answer": {"4": [1], "2": [7]}}))
    second = 1 / np.log2(3)
    expected = {
        # Query 4 has 3 candidates and 1 answer, query 2 the same: each rank is as likely as the others.
        "random": (1 + second + 0.5) / 3,
        "models": {"model1": (second + 1) / 2, "model2": 0.75},
        "blend": 1.0,
        "cross_validated": 0.75,
        "by_scores": None,
    }
    content = json.loads((tmp_path / "blend.json").read_text())
    figures = content.pop("ndcg@5")
    assert content == {
        "models": [
            {
                "name": f"model{number}",
                "valid": f"valid_pred_model{number}.json",
                "test": f"test_pred_model{number}.json",
                "weight": weight,
            }
            for number, weight in ((1, GRID[35, 0]), (2, GRID[35, 1]))
        ],
        "normalize": "none",
        "search": "grid",
        "split": "testB",
        "listed_once": None,
    }
    assert list(figures) == ["valid", "testB"]
    assert figures["valid"].pop("models") == pytest.approx(expected.pop("models"))
    assert figures["valid"] == pytest.approx(expected)
    assert figures["testB"]["blend"] == pytest.approx(second)
    assert figures["testB"]["cross_validated"] is None


def write_blend(folder):
    """A blend of three models, one of them from another folder, and its files."""
    other = folder.parent / "other"
    for place in (folder, other):
        place.mkdir(parents=True)
    models = []
    for name, place, weight in (("a", folder, 0.5), ("b", folder, 0.0), ("c", other, 0.5)):
        models.append(BlendedModel(name, place / f"valid_{name}.json", place / f"test_{name}.json", weight))
        for path in (models[-1].valid, models[-1].test):
            path.write_text(json.dumps(MODEL1))
    figures = {"valid": Figures(0.1, {"a": 0.5, "b": 0.25, "c": 0.125}, 0.75, 0.5)}
    blend = Blend(tuple(models), "zscore", "local", "testA", figures)
    blend.write(folder)
    return blend


def test_a_blend_comes_back_as_it_was_written_also_where_its_folders_were_moved(tmp_path):
    written = write_blend(tmp_path / "here" / "resources")
    (tmp_path / "here").rename(tmp_path / "there")
    read = Blend.read(tmp_path / "there" / "resources")
    assert [path.resolve() for path in read.paths("valid")] == [
        tmp_path / "there" / path.relative_to(tmp_path / "here") for path in written.paths("valid")
    ]
    assert [model.name for model in read.models] == ["a", "b", "c"]
    assert read.weights == [0.5, 0.0, 0.5]
    fields = ("normalize", "search", "split", "figures")
    assert [getattr(read, name) for name in fields] == [getattr(written, name) for name in fields]
    assert read.read_models("testA") == [pairs({"4": MODEL1["4"], "2": MODEL1["2"]})] * 3


def break_blend(content, *keys, value=None):
    """Replace what stands at ``keys``, or remove it."""
    place = content
    for key in keys[:-1]:
        place = place[key]
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value


@pytest.mark.parametrize(
    "change",
    [
        *({"keys": [key]} for key in ("models", "normalize", "search", "split", "ndcg@5")),
        *({"keys": ["models", 0, key]} for key in ("name", "valid", "test", "weight")),
        *({"keys": ["ndcg@5", "valid", key]} for key in ("random", "models", "blend", "cross_validated")),
        {"keys": ["models"], "value": []},
        {"keys": ["models"], "value": 3},
        {"keys": ["models", 1, "name"], "value": "a"},
        {"keys": ["models", 1, "name"], "value": 7},
        {"keys": ["models", 1, "valid"], "value": 7},
        {"keys": ["models", 1, "weight"], "value": "nan"},
        {"keys": ["models", 1, "weight"], "value": True},
        {"keys": ["models", 1, "weight"], "value": 10**400},
        {"keys": ["normalize"], "value": "no"},
        {"keys": ["normalize"], "value": []},
        {"keys": ["search"], "value": "guess"},
        {"keys": ["split"], "value": 3},
        {"keys": ["ndcg@5", "valid", "models"], "value": {"a": 0.5}},
        {"keys": ["ndcg@5", "valid", "blend"], "value": "high"},
        {"keys": ["ndcg@5"], "value": {}},
    ],
    ids=str,
)
def test_a_blend_of_another_form_is_refused(tmp_path, change):
    write_blend(tmp_path / "resources")
    path = tmp_path / "resources" / "blend.json"
    content = json.loads(path.read_text())
    break_blend(content, *change["keys"], value=change.get("value"))
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        Blend.read(tmp_path / "resources")
    assert str(caught.value) == f"{path} does not describe a blend: run 'python ensemble.py'"


def test_a_blend_that_is_absent_torn_or_of_absent_files_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"blend\.json does not exist: run 'python ensemble\.py'"):
        Blend.read(tmp_path)
    folder = tmp_path / "resources"
    blend = write_blend(folder)
    content = (folder / "blend.json").read_text()
    (folder / "blend.json").write_text(content[:50])
    with pytest.raises(UserError, match=r"blend\.json is not JSON .*: run 'python ensemble\.py'"):
        Blend.read(folder)
    (folder / "blend.json").write_text("[]")
    with pytest.raises(UserError, match=r"blend\.json does not describe a blend"):
        Blend.read(folder)
    (folder / "blend.json").write_text(content)
    blend.models[1].test.unlink()
    with pytest.raises(UserError, match=r"test_b\.json does not exist, but .*blend\.json names it: run"):
        Blend.read(folder)


def run_models(folder, *names):
    return run(folder, "--models", *(folder / f"{name}.json" for name in names))


def test_any_number_of_models_is_blended(tmp_path):
    # Of each query another model has the answer first, and the blend of two outvotes it.
    models = {
        name: {
            query: [[right, float(query == own)], [8, 0.4 * (query != own)]]
            for query, right in (("1", 5), ("2", 6), ("3", 7))
        }
        for name, own in (("a", "1"), ("b", "2"), ("c", "3"))
    }
    answers = {"1": [5], "2": [6], "3": [7]}
    files = {f"{split}_{name}": model for name, model in models.items() for split in ("valid", "test")}
    write_inputs(tmp_path, **files, **{"valid/valid_answer": answers})
    names = ("valid_a", "valid_b", "valid_c")
    printed = run_models(tmp_path, *names)
    weights = [float(re.search(rf"^  {name} +(\d\.\d{{6}})$", printed, re.MULTILINE)[1]) for name in models]
    assert sum(weights) == pytest.approx(1, abs=2e-6)
    assert min(weights) > 2 / 7
    assert re.search(r"^  blend +1\.000000 ", printed, re.MULTILINE)
    assert (tmp_path / "submission.csv").read_text().splitlines()[1:] == ["1,5,8,,,", "2,6,8,,,", "3,7,8,,,"]


def test_two_models_may_be_blended_on_the_grid_and_named_freely(tmp_path):
    write_inputs(tmp_path, one=MODEL1, two=MODEL2)
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    printed = run(tmp_path, "--search", "grid", "--models", *paths, "--test_models", *paths)
    assert "best weight of one on valid: 0.353535 (index 35)" in printed
    assert (tmp_path / "submission.csv").read_bytes() == SUBMISSION


def test_models_may_be_named_by_one_flag_or_by_several(tmp_path):
    write_inputs(tmp_path, one=MODEL1, two=MODEL2)
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    run(tmp_path, "--models", one, "--models", two, "--test_models", one, "--test_models", two)
    assert [model.name for model in Blend.read(tmp_path).models] == ["one", "two"]


def test_the_size_of_the_data_decides_what_is_blended_and_how(tmp_path):
    others = {
        f"{table}_pred_{name}": MODEL2 for table in ("valid", "test") for name in ("multilabel", "logistic")
    }
    write_inputs(tmp_path, **others)
    assert BEST in run(tmp_path)
    write_marker(tmp_path / "info", [], {"size": "small"})
    printed = run(tmp_path)
    assert "best weights on valid\n" in printed
    blend = Blend.read(tmp_path)
    assert [model.name for model in blend.models] == ["multilabel", "model1", "model2", "logistic"]
    assert (blend.normalize, blend.search) == ("zscore", "bagged")
    run(tmp_path, "--models", "logistic", "model1")
    blend = Blend.read(tmp_path)
    assert [model.name for model in blend.models] == ["logistic", "model1"]
    assert (blend.normalize, blend.search) == ("zscore", "bagged")
    (tmp_path / "test_pred_logistic.json").unlink()
    assert "make it with 'python -m kddcup.baseline'" in refusal(tmp_path)
    write_marker(tmp_path / "info", [], {"size": "full"})
    run(tmp_path)
    blend = Blend.read(tmp_path)
    assert [model.name for model in blend.models] == ["model1", "model2"]
    assert (blend.normalize, blend.search) == ("none", "grid")


def test_models_whose_files_have_one_name_keep_their_folders(tmp_path):
    for folder in ("x", "y"):
        write_inputs(tmp_path / folder)
    write_inputs(tmp_path)
    paths = [tmp_path / folder / "valid_pred_model1.json" for folder in ("x", "y")]
    run(tmp_path, "--models", *paths)
    assert [model.name for model in Blend.read(tmp_path).models] == list(map(str, paths))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--models", "valid_x.json", "mine.json"], ["mine.json is not named valid_", "--test_models"]),
        (["--models", "valid_x.json"], ["valid_x.json does not exist"]),
        (
            ["--models", "valid_x.json", "--test_models", "a.json", "b.json"],
            ["names 1 models", "--test_models 2"],
        ),
        (["--test_models", "a.json"], ["--test_models needs --models"]),
        (["--models", "valid_x.json", "valid_x.json"], ["--models names a model twice"]),
        *(
            (
                ["--models", "valid_a.json", "valid_b.json", "valid_c.json", "--search", search],
                [f"--search {search} blends two models, and there are 3", "--search local"],
            )
            for search in ("grid", "exact")
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(tmp_path, args, expected):
    said = refusal(write_inputs(tmp_path), *args)
    assert all(text in said for text in expected)


def test_a_third_model_that_lacks_a_candidate_is_named(tmp_path):
    write_inputs(tmp_path, valid_pred_model3=without_product(MODEL1))
    paths = [tmp_path / f"valid_pred_model{number}.json" for number in (1, 2, 3)]
    assert refusal(tmp_path, "--models", *paths).startswith(f"{paths[2]} lacks product 7 under query 2")


@pytest.mark.parametrize(
    ("answers", "predictions"),
    [("valid/valid_answer", "valid_pred_model1"), ("testB/testB_answer", "test_pred_model1")],
)
def test_answers_to_a_query_without_predictions_are_refused(tmp_path, answers, predictions):
    said = refusal(write_inputs(tmp_path, **{answers: {**ANSWERS, "77": [1]}}))
    assert said.startswith(f"{tmp_path / predictions}.json lacks query 77 of {tmp_path / answers}.json")
    assert not (tmp_path / "submission.csv").exists()


@pytest.mark.parametrize(
    "command",
    [
        [
            "ensemble",
            "--models",
            "valid_pred_model1.json",
            "valid_pred_model2.json",
            "valid_pred_model3.json",
        ],
        ["ensemble", "--normalize", "rank", "--search", "exact"],
        ["kddcup.predictions", "to_run", "valid_pred_model1.json", "model1.run"],
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_blending_and_converting_need_no_torch(tmp_path, command):
    write_inputs(tmp_path, valid_pred_model3=MODEL1, test_pred_model3=MODEL2)
    module, *args = [tmp_path / word if word.endswith((".json", ".run")) else word for word in command]
    if module == "ensemble":
        args += ["--data_dir", tmp_path, "--resources_dir", tmp_path]
    done = run_script(".", "-c", WITHOUT_TORCH, module, *args)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not COMPETITION.is_dir(), reason=f"{COMPETITION} is absent")
def test_the_competitions_predictions_give_the_published_figures_and_submission(tmp_path):
    for name in NAMES:
        shutil.copy(COMPETITION / name, tmp_path)
    (tmp_path / "valid").mkdir()
    shutil.copy(COMPETITION / "valid_answer.json", tmp_path / "valid")
    printed = run(tmp_path)
    assert "0.676768 (index 67)" in printed
    figures = dict(re.findall(r"^  (\w+) +(\d\.\d{6})  \[", printed, re.MULTILINE))
    assert figures == {"model1": "0.709813", "model2": "0.687546", "blend": "0.725990"}
    content = (tmp_path / "submission.csv").read_bytes()
    assert len(list(csv.reader(content.decode().splitlines()))) == 1 + 994
    assert hashlib.sha256(content).hexdigest() == (
        "a9fb450a0f5b1be8dd8bee7cb0f75df413ae574bdaa6104fd8d1e77db3257e6f"
    )


@pytest.mark.skipif(not COMPETITION.is_dir(), reason=f"{COMPETITION} is absent")
def test_the_competitions_predictions_have_the_known_optimum():
    models = read_models([(COMPETITION / f"valid_pred_model{number}.json", "") for number in (1, 2)])
    answers = read_answers(COMPETITION / "valid_answer.json")
    candidates = CandidateScores.of(models, answers)
    low, high, best = next(Curve.between(*candidates.scores, candidates.gains).plateaus())
    assert f"{best:.6f}" == "0.725990"
    assert low < 0.673785 < GRID[67, 0] < high

    def mean_ndcg(weight):
        return ndcg_per_query(ranking(weighted_sum(models, (weight, 1 - weight))), answers).mean()

    for weight in np.linspace(low + 1e-9, high - 1e-9, 20).tolist():
        assert mean_ndcg(weight) == pytest.approx(best, abs=1e-12)
    assert mean_ndcg(low - 1e-9) < best
    assert mean_ndcg(high + 1e-9) < best
