import numpy as np
import pytest
import torch

import kddcup.rank.scoring
from kddcup import stages
from kddcup.config import ModelConfig
from kddcup.io.errors import UserError
from kddcup.rank.scoring import encode_candidates, score_encoded
from kddcup.rank.split import Split
from kddcup.sample import SampleSettings, write_sample
from kddcup.table.table import Table
from kddcup.text.vocabulary import SPECIALS, Vocabulary

DIM = 16
CONFIG = ModelConfig(region_dim=DIM, width=8, vocabulary=60, ff=16, start=2, end=3)
CPU = torch.device("cpu")


WORDS = [*SPECIALS, *(f"word{i}" for i in range(50))]


class Words(Vocabulary):
    """Has every word but "the"."""

    def encode(self, text: str) -> list[int]:
        return [4 + sum(word.encode()) % 50 for word in text.split() if word != "the"]


def score_table(path, model, dim: int = DIM):
    return score_encoded(encode_candidates(path, model, Words("lexicon", WORDS), dim, CPU))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    out = tmp_path_factory.mktemp("scoring")
    write_sample(SampleSettings(out=str(out), train_queries=2, eval_queries=8, dim=DIM))
    return out / "valid" / "valid.tsv"


@pytest.fixture(params=stages.STAGES, ids=lambda stage: stage.name)
def model(request):
    torch.manual_seed(0)
    return request.param.build(CONFIG).eval()


def scores(predictions):
    return {(query, product): score for query, found in predictions.items() for product, score in found}


def rewrite(table, path, lines):
    header = table.read_text().split("\n")[0]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    assert max(abs(found[key] - expected[key]) for key in found) < 1e-5


def test_scores_do_not_depend_on_batches_order_or_other_rows(table, model, tmp_path, monkeypatch):
    lines = table.read_text().strip().split("\n")[1:]
    expected = scores(score_table(table, model))
    monkeypatch.setattr(kddcup.rank.scoring, "REGIONS_PER_BATCH", 1)
    monkeypatch.setattr(kddcup.rank.scoring, "WORDS_PER_BATCH", 1)
    assert_close(scores(score_table(table, model)), expected)
    monkeypatch.undo()
    order = np.random.default_rng(0).permutation(len(lines))
    shuffled = rewrite(table, tmp_path / "shuffled.tsv", [lines[i] for i in order])
    assert_close(scores(score_table(shuffled, model)), expected)
    part = rewrite(table, tmp_path / "part.tsv", lines[: len(lines) // 2])
    found = scores(score_table(part, model))
    assert_close(found, {key: expected[key] for key in found})


def test_every_candidate_is_scored_once_best_first(table, model):
    predictions = score_table(table, model)
    rows = [(str(row.query_id), row.product_id) for row in Table(table).rows("test")]
    assert sorted(scores(predictions)) == sorted(rows)
    for found in predictions.values():
        values = [score for _, score in found]
        assert values == sorted(values, reverse=True)


def test_an_image_is_encoded_once_however_many_queries_list_it(table, model, monkeypatch):
    encoded = []
    once = type(model).encode_images
    monkeypatch.setattr(
        type(model), "encode_images", lambda self, images: encoded.append(len(images)) or once(self, images)
    )
    score_table(table, model)
    rows = list(Table(table).rows("test"))
    assert sum(encoded) == len({row.product_id for row in rows}) < len(rows)


def test_a_product_that_comes_with_two_pictures_is_scored_as_each_stands(table, model, tmp_path):
    lines = [line.split("\t") for line in table.read_text().strip().split("\n")[1:]]
    first, second = lines[0], next(line for line in lines if line[8] != lines[0][8])
    renamed = [first[0], *second[1:]]
    both = rewrite(table, tmp_path / "both.tsv", ["\t".join(first), "\t".join(renamed)])
    expected = scores(score_table(table, model))
    found = scores(score_table(both, model))
    assert found[first[8], int(first[0])] == pytest.approx(expected[first[8], int(first[0])], abs=1e-5)
    assert found[second[8], int(first[0])] == pytest.approx(expected[second[8], int(second[0])], abs=1e-5)


def test_a_query_without_words_keeps_the_tables_order_and_is_counted(table, model, tmp_path):
    lines = [line.split("\t") for line in table.read_text().strip().split("\n")[1:]]
    silent = lines[0][8]
    for line in lines:
        if line[8] == silent:
            line[7] = "the the"
    path = rewrite(table, tmp_path / "silent.tsv", ["\t".join(line) for line in lines])
    candidates = encode_candidates(path, model, Words("lexicon", WORDS), DIM, CPU)
    predictions = score_encoded(candidates)
    assert candidates.wordless == 1
    assert predictions[silent] == [(int(line[0]), 0.0) for line in lines if line[8] == silent]


def test_a_score_that_is_not_finite_is_refused(table, model, monkeypatch):
    monkeypatch.setattr(
        type(model), "score_candidates", lambda self, queries, owner, heads: owner / torch.zeros(len(owner))
    )
    with pytest.raises(UserError, match=r"query \d+: the model's score of product \d+ is not finite \(and"):
        score_table(table, model)


def test_regions_of_another_dimension_are_refused(table, model):
    with pytest.raises(UserError, match="regions of 16 dimensions and the model takes 32"):
        score_table(table, model, 32)


def test_answers_to_a_query_that_the_table_lacks_are_refused(table, tmp_path):
    folder = tmp_path / "valid"
    folder.mkdir()
    (folder / "valid_answer.json").write_text('{"77": [1]}')
    with pytest.raises(UserError, match="lacks query 77"):
        Split(tmp_path, "valid").ndcg({"1": [(1, 0.5)]})
