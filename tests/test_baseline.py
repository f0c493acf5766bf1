"""The line to beat: logistic regression and nearest neighbours on the tables' features."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from conftest import DIM, SHARED, assert_one_line_error, run_script, table_row, write_table

from kddcup.io.errors import UserError
from kddcup.io.files import read_arrays, write_arrays
from kddcup.rank.baseline import SMOOTHING, ProductSample, choose_words, fit_neighbours
from kddcup.rank.logistic import LogisticRanker, scale
from kddcup.rank.predictions import read_answers, read_predictions
from kddcup.rank.split import Split
from kddcup.table.extractor import Extractor
from kddcup.text.segmentation import UserDictionary

COLOURS, THINGS = ("red", "blue", "green"), ("bag", "mug", "lamp")


def shown(colour: str, thing: str, rng: np.random.Generator) -> np.ndarray:
    """Features of two regions, whose mean shows both words."""
    mean = 0.05 * rng.random(DIM)
    mean[COLOURS.index(colour)] += 1
    mean[3 + THINGS.index(thing)] += 1
    return np.stack([1.5 * mean, 0.5 * mean]).astype(np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    kinds = [(colour, thing) for colour in COLOURS for thing in THINGS]
    rows = []
    for product in range(90):
        colour, thing = kinds[product % 9]
        features = shown(colour, thing, rng)
        rows.append(table_row(product, product % 9, f"the {colour} {thing}", features=features))
        rows.append(table_row(product, 10 + product % 3, f"new {thing}", features=features))
    write_table(folder / "train" / "train.tsv", rows)
    for split, first in (("valid", 1000), ("testB", 2000)):
        rows, answers = [], {}
        for query, (colour, thing) in enumerate(kinds):
            for place, other in enumerate(kinds):
                product = first + 10 * query + place
                rows.append(table_row(product, query, f"{colour} {thing}s", features=shown(*other, rng)))
                rows[-1]["query"] = f"{thing} unheard {colour}"
                if other == (colour, thing):
                    answers[str(query)] = [product]
        rows += [table_row(first + 500 + i, 99, "of the", features=shown(*kinds[i], rng)) for i in range(3)]
        answers["99"] = [first + 501]
        write_table(folder / split / f"{split}.tsv", rows)
        (folder / split / f"{split}_answer.json").write_text(json.dumps(answers))
    return folder


def test_both_rankers_find_what_the_features_show(data: Path, tmp_path: Path) -> None:
    done = run_script(".", "-m", "kddcup.baseline", "--data_dir", data, "--resources_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sample" not in done.stdout
    for split, name in (("valid", "valid"), ("testB", "test")):
        answers = read_answers(data / split / f"{split}_answer.json")
        assert f"NDCG@5 on {split} " in done.stdout
        for ranker in ("logistic", "neighbours"):
            found = read_predictions(tmp_path / f"{name}_pred_{ranker}.json", "the baseline")
            assert [found[query][0][0] for query in answers if query != "99"] == [
                products[0] for query, products in answers.items() if query != "99"
            ]
            wordless = [product % 1000 for product, _ in found["99"]]
            assert wordless == [500, 501, 502], "a query without a known word keeps the table's order"
            assert {score for _, score in found["99"]} == {0.0}
            ndcg = Split(data, split).ndcg(found).mean()
            assert f"{ranker:<12} {ndcg:.6f} " in done.stdout


def test_predictions_are_blended_as_those_of_models(data: Path, tmp_path: Path) -> None:
    for command in (
        ("-m", "kddcup.baseline", "--data_dir", data, "--resources_dir", tmp_path),
        ("ensemble.py", "--data_dir", data, "--resources_dir", tmp_path, "--models",
         tmp_path / "valid_pred_logistic.json", tmp_path / "valid_pred_neighbours.json"),
    ):  # fmt: skip
        done = run_script(".", *command)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "submission.csv").read_text().startswith("query-id,product1")


def test_a_large_table_is_sampled_and_it_says_so(data: Path, tmp_path: Path) -> None:
    done = run_script(
        ".", "-m", "kddcup.baseline", "--data_dir", data, "--resources_dir", tmp_path, "--sample", 50
    )
    assert done.returncode == 0, done.stderr
    assert "learned from a sample of " in done.stdout
    assert "one in 2 of" in done.stdout


def test_a_sample_keeps_products_with_all_their_words() -> None:
    sample, every = ProductSample(100), ProductSample(10_000)
    for text in ("red bag", "the large bag", "bag blue"):
        for product in range(1000):
            for one in (sample, every):
                one.add(product, np.full((2, 3), product, np.float32), f"{text} number{product}")
    assert len(every.images) == 1000
    assert every.zeros == 0
    assert 50 <= len(sample.images) <= 100
    assert 2**sample.zeros == pytest.approx(1000 / len(sample.images), rel=0.5)
    assert sample.words.keys() == sample.images.keys()
    for product, words in sample.words.items():
        assert words == {"red", "blue", "large", "bag", f"number{product}"}
        assert sample.images[product].tolist() == [product] * 3


def test_features_are_rooted_with_their_sign_and_scaled() -> None:
    scaled = scale(np.array([[4.0, -9.0, 0.0], [0.0, 0.0, 0.0]], np.float32))
    assert scaled[0] == pytest.approx(10 * np.array([2, -3, 0]) / 13**0.5)
    assert scaled[1].tolist() == [0, 0, 0]


def test_neighbours_vote_by_their_cosines() -> None:
    images = np.array([[10, 0], [6, 8], [0, 10]], np.float32)
    predict = fit_neighbours(images**2, {"red": np.array([True, True, False])})
    shares = np.exp(predict(np.array([[10, 0], [64, 36]], np.float32)))[:, 0] - SMOOTHING
    assert shares == pytest.approx([1, (0.8 + 0.96) / (0.8 + 0.96 + 0.6)], abs=1e-6)


def test_a_word_that_goes_with_nothing_near_is_unlikely() -> None:
    means = np.array([[9, 0], [9, 0.1], [0, 9], [0.1, 9]], np.float32)
    ranker = LogisticRanker.fit(means, {"red": np.array([True, True, False, False])})
    chances = np.exp(ranker.score(means))[:, 0]
    assert chances[:2].min() > 0.9
    assert chances[2:].max() < 0.1


def test_a_log_probability_is_what_a_hand_finds() -> None:
    ranker = LogisticRanker(
        ["red", "bag"], np.array([[0.3, 0.1], [0, 0.2]], np.float32), np.array([0.5, -1], np.float32)
    )
    # The mean (9, 16) has the roots (3, 4), which are (6, 8) at length 10.
    found = ranker.score(np.array([[9, 16]], np.float32))
    expected = [-np.log1p(np.exp(-(0.3 * 6 + 0.1 * 8 + 0.5))), -np.log1p(np.exp(-(0.2 * 8 - 1)))]
    assert found[0] == pytest.approx(expected, rel=1e-6)


def test_all_words_that_are_asked_for_are_learned_and_the_commonest_others() -> None:
    sample = ProductSample(10)
    queries = ("all rare twice often", "all twice often", "all asked often", "all")
    for product, text in enumerate(queries):
        sample.add(product, np.ones((1, 2), np.float32), text)
    assert choose_words(sample, {"asked", "all", "unknown"}, 1) == ["asked"], "all goes with every product"
    assert choose_words(sample, {"asked"}, 2) == ["asked", "often"]
    assert choose_words(sample, {"asked"}, 9) == ["asked", "often", "twice"], "rare is of one product"


def test_what_was_learned_ranks_again_without_the_training_table(data: Path, tmp_path: Path) -> None:
    first, second, tables = tmp_path / "first", tmp_path / "second", tmp_path / "tables"
    command = ("-m", "kddcup.baseline", "--data_dir")
    run_script(".", *command, data, "--resources_dir", first).check_returncode()
    for split in ("valid", "testB"):
        shutil.copytree(data / split, tables / split)
    model = first / "logistic.npz"
    run_script(".", *command, tables, "--resources_dir", second, "--model", model).check_returncode()
    for table in ("valid", "test"):
        name = f"{table}_pred_logistic.json"
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert {path.name for path in second.iterdir()} == {"valid_pred_logistic.json", "test_pred_logistic.json"}
    ranker = LogisticRanker.read(model)
    assert set(ranker.words) == {*COLOURS, *THINGS}

    (tables / "extractor.json").write_text(
        json.dumps(asdict(Extractor("6 crops", DIM, "as they are", "net")))
    )
    done = run_script(".", *command, tables, "--resources_dir", second, "--model", model)
    assert_one_line_error(done, tables, "an unknown extractor")


def test_a_ranker_comes_back_with_all_that_it_needs(tmp_path: Path) -> None:
    extractor = Extractor("6 crops", 2, "as they are", "net")
    written = LogisticRanker(
        ["红色", "bag"],
        np.arange(4, dtype=np.float32).reshape(2, 2),
        np.ones(2, np.float32),
        UserDictionary(["红色 5"]),
        extractor,
    )
    written.write(tmp_path / "logistic.npz")
    read = LogisticRanker.read(tmp_path / "logistic.npz")
    assert read.words == written.words
    assert (read.weights == written.weights).all()
    assert (read.biases == written.biases).all()
    assert read.dictionary.entries == ["红色 5"]
    assert read.extractor == extractor


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"weights": np.zeros((3, 2), np.float32)}, r"2 words, 2 of them different, weights \[3, 2\]"),
        ({"biases": np.array([0, np.nan], np.float32)}, "finite"),
        ({"weights": np.zeros((2, 2))}, "finite"),
        ({"about": np.frombuffer(b"[1, 2]", np.uint8)}, "holds no logistic regressions"),
        ({"about": np.frombuffer(b"[" * 100_000, np.uint8)}, "holds no logistic regressions"),
        ({"about": np.frombuffer(b'{"words": ["a", "a"]}', np.uint8)}, "holds no logistic regressions"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, change: dict, expected: str) -> None:
    path = tmp_path / "logistic.npz"
    LogisticRanker(["a", "b"], np.zeros((2, 2), np.float32), np.zeros(2, np.float32)).write(path)
    write_arrays(path, read_arrays(path, "") | change)
    with pytest.raises(UserError, match=expected) as caught:
        LogisticRanker.read(path)
    assert str(path) in str(caught.value)


def test_tables_that_do_not_go_together_end_in_one_line(data: Path, tmp_path: Path) -> None:
    for split in ("train", "valid", "testB"):
        rows = [table_row(1, 1, f"{split}word here")]
        if split == "valid":
            rows[0]["features"] = np.ones((2, DIM + 1), np.float32)
        write_table(tmp_path / split / f"{split}.tsv", rows)
    command = (".", "-m", "kddcup.baseline", "--data_dir", tmp_path, "--resources_dir", tmp_path)
    assert_one_line_error(
        run_script(*command), "valid.tsv", f"{DIM + 1} dimensions", f"what is learned from has {DIM}"
    )
    write_table(tmp_path / "valid" / "valid.tsv", [table_row(1, 1, "other")])
    assert_one_line_error(run_script(*command), "train.tsv has none of the words")


@pytest.mark.skipif(not (SHARED / "pictures").is_dir(), reason="../shared/pictures is absent")
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ((), {"logistic": (0.676, 0.708), "neighbours": (0.621, 0.666)}),
        (("--many",), {"logistic": (0.724, 0.641), "neighbours": (0.667, 0.583)}),
    ],
)
def test_real_pictures_give_the_figures_that_are_known(
    tmp_path: Path, more: tuple[str, ...], expected: dict[str, tuple[float, float]]
) -> None:
    write = [sys.executable, SHARED / "pictures" / "write_tables.py", tmp_path, *more]
    subprocess.run([*map(str, write)], check=True)
    done = run_script(".", "-m", "kddcup.baseline", "--data_dir", tmp_path, "--resources_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    for ranker, figures in expected.items():
        for (split, name), figure in zip((("valid", "valid"), ("testB", "test")), figures, strict=True):
            found = read_predictions(tmp_path / f"{name}_pred_{ranker}.json", "the baseline")
            assert Split(tmp_path, split).ndcg(found).mean() == pytest.approx(figure, abs=0.005)
