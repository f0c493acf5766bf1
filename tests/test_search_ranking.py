"""The ranking of a whole index: exact, on random indexes and on those made to mislead it."""

import dataclasses

import numpy as np
import pytest

from kddcup.io.errors import UserError
from kddcup.io.ragged import Ragged
from kddcup.search import ranking
from kddcup.search.columns import Columns
from kddcup.search.models import WordQuery
from kddcup.search.searcher import Searcher
from kddcup.search.segment import Product, SegmentWriter
from kddcup.search.threads import Threads
from tests.searching import build_model, make_index
from tests.small import CONFIG

N = 400
SHAPE = (CONFIG.heads, CONFIG.width)


def draw_heads(rng, count=N):
    return rng.normal(size=(count, *SHAPE)).astype(np.float32)


def one_word_everywhere(rng, model):
    """Every product has about the same high score with w3; the other words decide."""
    heads = draw_heads(rng)
    vector = model.read("w3").vectors[0]
    heads[:, 1] = 20 * vector / (vector @ vector) + rng.normal(size=(N, CONFIG.width)) * 1e-3
    return heads


def beyond_float16(rng, model):
    """Heads that float16 holds, and scores that it does not."""
    heads = draw_heads(rng)
    heads[:, 1:] *= 10 ** rng.uniform(-6, 4.7, (N, 1, 1))
    heads[:, 1:] = heads[:, 1:].clip(-60_000, 60_000)
    return heads


CATALOGUES = {
    "random": lambda rng, model: draw_heads(rng),
    "equal products": lambda rng, model: draw_heads(rng, 7)[rng.integers(0, 7, N)],
    "all equal": lambda rng, model: np.repeat(draw_heads(rng, 1), N, 0),
    "one word everywhere": one_word_everywhere,
    "nearly equal": lambda rng, model: draw_heads(rng, 1) + 1e-3 * draw_heads(rng),
    "beyond float16": beyond_float16,
    "tiny": lambda rng, model: draw_heads(rng) * 1e-6,
    "negative": lambda rng, model: -np.abs(draw_heads(rng)) * 100,
}


def rank_exhaustively(index, model, query, k):
    """The best k of all products by the exact score of each."""
    alive = np.flatnonzero(index.alive)
    weighing = index.take(model.weighing, alive) if model.weighing else None
    scores, _, _ = query.score(index.take(model.heads, alive), weighing)
    best = np.lexsort((index.numbers[alive], -scores))[:k]
    return alive[best].tolist(), scores[best].tolist()


@pytest.mark.parametrize("name", ["model1", "multilabel"])
@pytest.mark.parametrize("catalogue", CATALOGUES)
def test_the_best_products_are_those_of_exhaustive_scoring_and_ties_go_by_number(tmp_path, name, catalogue):
    rng, model = np.random.default_rng(0), build_model(name)
    heads, numbers = CATALOGUES[catalogue](rng, model), rng.permutation(N)
    index = make_index(tmp_path / "index", model, [heads[:300], heads[300:310], heads[310:]], numbers)
    threads = Threads(2)
    for memory in (0, 10**6):
        columns = Columns(index, model, memory, threads)
        ranker = ranking.Ranking(index, model, columns, threads)
        for text in ("w3", "w3 w5", "w7 w0 w9", "w3 w3 w1", "w2 nothing w4 w6 w8", "w3 w4 w5 w6 w7 w8 w9"):
            query = model.read(text)
            rows, scores = rank_exhaustively(index, model, query, N)
            for k in (1, 10, 50, 2 * N):
                found = ranker.rank(query, k)
                assert (found.rows.tolist(), found.scores.tolist()) == (rows[:k], scores[:k])


def test_removed_products_are_not_found_and_do_not_count(tmp_path):
    rng, model = np.random.default_rng(1), build_model("model1")
    index = make_index(tmp_path / "index", model, [draw_heads(rng)], np.arange(N))
    query, threads = model.read("w3 w5 w9"), Threads(2)
    ranker = ranking.Ranking(index, model, Columns(index, model, 0, threads), threads)
    dead = ranker.rank(query, 300).rows
    index.alive[dead] = False
    ranker = ranking.Ranking(index, model, Columns(index, model, 0, threads), threads)
    for k in (5, N):
        found = ranker.rank(query, k)
        assert (found.rows.tolist(), found.scores.tolist()) == rank_exhaustively(index, model, query, k)
        assert not set(dead.tolist()) & set(found.rows.tolist())


@pytest.mark.parametrize("catalogue", CATALOGUES)
@pytest.mark.parametrize("name", ["model1", "multilabel"])
def test_columns_enclose_the_exact_scores(tmp_path, name, catalogue):
    rng, model = np.random.default_rng(2), build_model(name)
    index = make_index(tmp_path / "index", model, [CATALOGUES[catalogue](rng, model)], np.arange(N))
    query = model.read("w3 w4 w5")
    columns = Columns(index, model, 0, Threads(1))
    upper = columns.find(query).float()
    lower = columns.lower(query, upper)
    weighing = index.take(model.weighing, np.arange(N)) if model.weighing else None
    parts = query.score(index.take(model.heads, np.arange(N)), weighing)[2].T
    assert (upper.double().numpy() >= parts).all()
    assert (lower.double().numpy() <= parts).all()


def test_few_products_are_looked_at_where_the_columns_decide(tmp_path):
    rng, model = np.random.default_rng(3), build_model("model1")
    heads = draw_heads(rng)
    words = np.stack([model.read(word).vectors[0] for word in ("w3", "w5")])
    heads[:, 1:] *= 0.01
    heads[:10, 1:3] = 5 * words
    index = make_index(tmp_path / "index", model, [heads], np.arange(N))
    threads = Threads(1)
    ranker = ranking.Ranking(index, model, Columns(index, model, 0, threads), threads)
    assert ranker.rank(model.read("w3"), 5).looked_at == 10
    assert ranker.rank(model.read("w3 w5"), 5).looked_at <= ranking.GUESSES * 5 + 10


def test_a_score_is_the_weighted_sum_of_the_best_products():
    # Two words, two heads of two numbers, one number in the weights' inner layer; worked by hand.
    query = WordQuery(
        words=(),
        read=(0, 1),
        keys=(5, 6),
        vectors=np.array([[1, 0], [0, 2]], np.float32),
        biases=np.zeros(2),
        log_sigmoid=False,
        text=np.array([[1.0], [-3.0]], np.float32),
        slope=0.5,
        output=np.array([2.0], np.float32),
    )
    heads = np.array(
        [[[3, 1], [4, -1]]], np.float16
    )  # products: 3 and 4 with the first, 2 and -2 with the second
    # PReLU(1 + 1) · 2 = 4 and PReLU(-3 + 1) · 2 = -2: the first word's weight is 1 / (1 + e^-6).
    first = 1 / (1 + np.exp(-6))
    scores, weights, parts = query.score(heads, np.array([[1]], np.float16))
    assert parts.tolist() == [[4, 2]]
    np.testing.assert_allclose(weights, [[first, 1 - first]], rtol=1e-12)
    np.testing.assert_allclose(scores, [4 * first + 2 * (1 - first)], rtol=1e-12)
    # Without weights: the sum of log σ(4 + 1) and log σ(2 - 1).
    plain = dataclasses.replace(query, text=None, output=None, biases=np.array([1.0, -1.0]), log_sigmoid=True)
    scores, weights, parts = plain.score(heads, None)
    np.testing.assert_allclose(parts, [[-np.log1p(np.exp(-5)), -np.log1p(np.exp(-1))]], rtol=1e-12)
    np.testing.assert_allclose(scores, parts.sum(1))
    assert weights.tolist() == [[0.5, 0.5]]


def test_memory_keeps_the_columns_of_the_words_that_are_used_most(tmp_path, monkeypatch):
    model = build_model("model1")
    index = make_index(tmp_path / "index", model, [draw_heads(np.random.default_rng(4))], np.arange(N))
    columns = Columns(index, model, 2 * 2 * N, Threads(1))
    made = []
    plain = columns._compute
    monkeypatch.setattr(columns, "_compute", lambda query, keys: made.extend(keys) or plain(query, keys))

    def use(text):
        made.clear()
        columns.find(model.read(text))
        assert columns.nbytes <= 2 * 2 * N
        return len(made)

    assert [use("w1"), use("w1"), use("w2"), use("w2"), use("w3"), use("w1 w2")] == [1, 0, 1, 0, 1, 0]
    assert [use("w3"), use("w3"), use("w3")] == [1, 1, 0]  # the second time it is used as often, and later


@pytest.mark.parametrize("k", [1, 9, 2 * N])
def test_alike_are_the_products_of_the_largest_cosine(tmp_path, k):
    rng, model = np.random.default_rng(5), build_model("model1")
    heads = draw_heads(rng)
    heads[10], heads[20] = 2 * heads[3], heads[4]
    heads[30, 0] = 0
    index = make_index(tmp_path / "index", model, [heads[:300], heads[300:]], rng.permutation(N))
    searcher = Searcher(index)
    captions = index.take(model.similar, np.arange(N)).astype(np.float64)
    for row in (3, 30):
        norms = np.linalg.norm(captions, axis=1) * np.linalg.norm(captions[row])
        cosines = (captions @ captions[row]) / np.maximum(norms, 1e-300)
        expected = [each for each in np.lexsort((index.numbers, -cosines.round(12))) if each != row][:k]
        hits = searcher.similar(row, k)
        assert [hit.product for hit in hits] == expected
        np.testing.assert_allclose([hit.score for hit in hits], cosines[expected], atol=1e-9)


def test_a_product_of_numbers_beyond_float16_is_refused(tmp_path):
    product, regions = Product(1, "shoe", "", "", 1, 1, ()), Ragged(np.ones((1, 5), np.float32), np.arange(2))
    heads = {"model1.heads": np.full((1, 4), np.inf, np.float16)}
    with pytest.raises(UserError, match=r"product shoe: its model1\.heads are too large for float16"):
        SegmentWriter(tmp_path, tmp_path).add([product], regions, [""], heads)


def test_an_empty_index_finds_nothing_and_says_why(tmp_path):
    model = build_model("model1")
    index = make_index(tmp_path / "index", model, [draw_heads(np.random.default_rng(6), 3)], np.arange(3))
    index.alive[:] = False
    results = Searcher(index).search("w1")
    assert (results.hits, results.reason) == ((), "no products")
