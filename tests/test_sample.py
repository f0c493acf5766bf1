import json
import re

import numpy as np
import pytest

import kddcup.sample
from kddcup.rank.metrics import ndcg_per_query, random_ndcg
from kddcup.sample import BODY_PARTS, CATEGORIES, SampleSettings, write_sample
from kddcup.table.labels import COMPETITION_LABELS
from kddcup.table.table import Table
from kddcup.text.segmentation import content_words
from tests.conftest import SHARED, assert_one_line_error, run_script

TABLES = ("train", "valid", "testA", "testB")
CANDIDATE_TABLES = TABLES[1:]
FILES = {
    "multimodal_labels.txt",
    "sample.json",
    *(f"{name}/{name}.tsv" for name in TABLES),
    *(f"{name}/{name}_answer.json" for name in CANDIDATE_TABLES),
}


def small(out, **others):
    return write_sample(
        SampleSettings(str(out), **{"train_queries": 60, "eval_queries": 6, "dim": 8} | others)
    )


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder, name):
    return list(Table(folder / name / f"{name}.tsv").rows(name))


def answers_of(folder, name):
    return json.loads((folder / name / f"{name}_answer.json").read_text())


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    """The data set at its defaults, and the shop that made it."""
    out = tmp_path_factory.mktemp("default")
    return out, write_sample(SampleSettings(str(out)))


@pytest.fixture(scope="module")
def tables(default):
    return {name: rows_of(default[0], name) for name in TABLES}


def candidates_of(rows):
    lists = {}
    for row in rows:
        lists.setdefault(str(row.query_id), []).append(row.product_id)
    return lists


def mates_of(shop, candidates):
    """The candidates that have the category that the query asks for."""
    return {
        query: [one for one in products if shop.product(one).values[0] == shop.wanted[int(query)][0]]
        for query, products in candidates.items()
    }


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        small(tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a").keys() == FILES


def test_another_seed_gives_other_products_and_queries(tmp_path):
    small(tmp_path / "a")
    small(tmp_path / "b", seed=1)
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert {name for name in FILES if a[name] == b[name]} == {"multimodal_labels.txt", "sample.json"}


def test_size_and_dimension_are_arguments(tmp_path):
    small(tmp_path, train_queries=10, eval_queries=4, dim=12)
    queries = {name: {row.query_id for row in rows_of(tmp_path, name)} for name in TABLES}
    assert {name: len(ids) for name, ids in queries.items()} == {
        "train": 10,
        "valid": 4,
        "testA": 2,
        "testB": 4,
    }
    assert rows_of(tmp_path, "valid")[0].features.shape[1] == 12


def test_the_default_takes_less_than_60_megabytes(default):
    assert sum(map(len, contents(default[0]).values())) < 60e6


def test_the_header_is_the_competitions(default):
    for name in TABLES:
        with open(default[0] / name / f"{name}.tsv") as file:
            assert file.readline().rstrip("\n").split("\t") == [
                "product_id",
                "image_h",
                "image_w",
                "num_boxes",
                "boxes",
                "features",
                "class_labels",
                "query",
                "query_id",
            ]


def test_features_are_non_negative_and_sparse_and_256_wide(tables):
    features = np.concatenate([row.features for row in tables["valid"]])
    assert features.shape[1] == 256
    assert (features >= 0).all()
    assert 0.3 < (features == 0).mean() < 0.95


def test_boxes_lie_within_their_image(tables):
    for row in tables["valid"]:
        top, left, bottom, right = row.boxes.T
        assert ((top >= 0) & (top < bottom) & (bottom <= row.image_h)).all()
        assert ((left >= 0) & (left < right) & (right <= row.image_w)).all()


def test_labels_are_the_categorys_or_a_body_part(default, tables):
    for row in tables["valid"]:
        category = CATEGORIES[default[1].product(row.product_id).values[0]][2]
        assert row.class_labels[0] == category
        assert set(row.class_labels.tolist()) <= {category, *BODY_PARTS}


def test_the_number_of_regions_is_distributed_as_measured(tables):
    path = SHARED / "kddcup2020" / "boxes_per_image.json"
    images = {row.product_id: len(row.boxes) for rows in tables.values() for row in rows}
    counts = np.array(list(images.values()))
    assert counts.mean() == pytest.approx(4.0, abs=0.15)
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    measured = {int(count): images for count, images in json.loads(path.read_text()).items()}
    total = sum(measured.values())
    for count in range(1, 13):
        assert (counts == count).mean() == pytest.approx(measured[count] / total, abs=0.015)


def test_the_label_file_is_as_released(default):
    lines = (default[0] / "multimodal_labels.txt").read_text().splitlines()
    assert len(lines) == 1 + 33
    assert [line.split("\t") for line in lines[1:]] == [
        [str(i), name] for i, name in enumerate(COMPETITION_LABELS)
    ]
    released = SHARED / "kddcup2020" / "multimodal_labels.txt"
    if not released.is_file():
        pytest.skip(f"{released} is absent")
    assert lines == released.read_text().splitlines()


def test_train_holds_positives_only(default, tables):
    shop = default[1]
    assert all(shop.fits(row.product_id, shop.wanted[row.query_id]) for row in tables["train"])


def test_a_training_product_occurs_under_several_queries_now_and_then(tables):
    queries = {}
    for row in tables["train"]:
        queries.setdefault(row.product_id, set()).add(row.query_id)
    assert np.mean([len(ids) > 1 for ids in queries.values()]) > 0.02


def test_a_query_has_one_text_and_a_text_one_query(tables):
    pairs = {(row.query_id, row.query) for rows in tables.values() for row in rows}
    assert len({query for query, _ in pairs}) == len({text for _, text in pairs}) == len(pairs)


def test_candidate_lists_are_30_long_and_some_8_or_21(tables):
    lengths = [
        len(products) for name in CANDIDATE_TABLES for products in candidates_of(tables[name]).values()
    ]
    assert set(lengths) == {8, 21, 30}
    assert 0.8 < np.mean(np.array(lengths) == 30) < 1


def test_a_product_is_listed_once_under_a_query(tables):
    for name in CANDIDATE_TABLES:
        for products in candidates_of(tables[name]).values():
            assert len(set(products)) == len(products)


def test_answers_are_exactly_the_candidates_that_fit(default, tables):
    out, shop = default
    for name in CANDIDATE_TABLES:
        fitting = {
            query: {one for one in products if shop.fits(one, shop.wanted[int(query)])}
            for query, products in candidates_of(tables[name]).items()
        }
        assert fitting == {query: set(products) for query, products in answers_of(out, name).items()}


def test_about_6_of_30_candidates_are_relevant_and_most_others_share_the_category(default, tables):
    out, shop = default
    candidates, answers = candidates_of(tables["valid"]), answers_of(out, "valid")
    full = [query for query in candidates if len(candidates[query]) == 30]
    assert 5 <= np.mean([len(answers[query]) for query in full]) <= 7
    mates = mates_of(shop, candidates)
    others = sum(len(candidates[query]) - len(answers[query]) for query in candidates)
    sharing = sum(len(mates[query]) - len(answers[query]) for query in candidates)
    assert 0.6 < sharing / others < 0.9


@pytest.mark.parametrize("name", ["valid", "testB"])
def test_an_oracle_is_perfect_and_random_and_category_alone_are_not(default, tables, name):
    out, shop = default
    candidates, answers = candidates_of(tables[name]), answers_of(out, name)
    oracle = {
        query: sorted(products, key=lambda one: one not in answers[query])
        for query, products in candidates.items()
    }
    assert ndcg_per_query(oracle, answers).min() == 1.0
    assert 0.15 < random_ndcg(candidates, answers) < 0.30
    # A ranker that knows the category orders its members, of which there are five at least, at random.
    mates = mates_of(shop, candidates)
    assert min(map(len, mates.values())) >= 5
    assert random_ndcg(candidates, answers) < random_ndcg(mates, answers) < 0.5


def test_the_docstring_states_what_the_three_rankers_reach(default, tables):
    out, shop = default
    candidates = candidates_of([*tables["valid"], *tables["testB"]])
    answers = answers_of(out, "valid") | answers_of(out, "testB")
    stated = " ".join(kddcup.sample.__doc__.split())
    found = re.search(
        r"an oracle (\S+); a random order (\S+); a ranker that knows the category and nothing else (\d\.\d+)",
        stated,
    )
    assert found
    assert found[1] == "1.0"
    assert found[2] == f"{random_ndcg(candidates, answers):.2f}"
    assert found[3] == f"{random_ndcg(mates_of(shop, candidates), answers):.2f}"


@pytest.mark.parametrize(
    "odd", [" - ", "'s", '"', "ms.", "2019", "flagship store", "korean version", " with ", " and "]
)
def test_queries_hold_the_marketplaces_odd_words(tables, odd):
    assert any(odd in row.query for row in tables["train"])
    assert not all(odd in row.query for row in tables["train"])


def test_queries_ask_in_varied_order_for_what_they_want(default, tables):
    shop = default[1]
    texts = {row.query_id: row.query for row in tables["train"]}
    for query, text in texts.items():
        assert CATEGORIES[shop.wanted[query][0]][0] in content_words(text)
    first = [content_words(text)[0] for text in texts.values()]
    assert len(set(first)) > 20


def test_chinese_queries_are_chinese_and_ask_for_the_same_kind_of_things(tmp_path):
    shop = small(tmp_path, language="zh")
    texts = {row.query_id: row.query for name in TABLES for row in rows_of(tmp_path, name)}
    for query, text in texts.items():
        assert re.search("[\u4e00-\u9fff]", text)
        assert not re.search("[a-z ]", text)
        assert CATEGORIES[shop.wanted[query][0]][1] in text
    for odd in ("旗舰店", "韩版", "2019"):
        assert any(odd in text for text in texts.values())


def test_tables_that_are_no_sample_stay_as_they_are_and_a_sample_is_made_anew(tmp_path):
    path = tmp_path / "train" / "train.tsv"
    path.parent.mkdir()
    path.write_text("mine")
    done = run_script(".", "-m", "kddcup.sample", "--out", tmp_path)
    assert_one_line_error(done, f"{tmp_path} has other tables", "--out")
    assert path.read_text() == "mine"
    assert [one.name for one in tmp_path.iterdir()] == ["train"]
    path.unlink()
    small(tmp_path)
    before = contents(tmp_path)
    path.write_text("torn")
    small(tmp_path)
    assert contents(tmp_path) == before


def test_the_command_writes_what_the_function_writes(tmp_path):
    small(tmp_path / "function")
    sizes = ("--train_queries", 60, "--eval_queries", 6, "--dim", 8)
    done = run_script(".", "-m", "kddcup.sample", "--out", tmp_path / "command", *sizes)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "command") in done.stdout
    assert contents(tmp_path / "command") == contents(tmp_path / "function")
