from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from kddcup.rank.metrics import (
    bootstrap_interval,
    describe_others,
    measure,
    ndcg,
    ndcg_per_query,
    random_ndcg,
    recall,
    reciprocal_rank,
)

# What a hit at rank 1, 2, … 5 gains: 1 / log2(rank + 1).
GAIN = [1.0, 0.6309297535714575, 0.5, 0.43067655807339306, 0.38685280723454163]


@pytest.mark.parametrize(
    ("ranked", "answers", "expected"),
    [
        ([1, 2, 3, 4, 5, 6], {1}, 1),
        ([2, 1, 3, 4, 5, 6], {1}, GAIN[1]),
        ([2, 3, 4, 5, 6, 1], {1}, 0),
        ([2, 3, 4, 5, 1, 6], {1}, GAIN[4]),
        ([1, 9, 2, 8, 7], {1, 2}, (1 + 0.5) / (1 + GAIN[1])),
        ([9, 1, 8, 2, 7], [1, 2, 3], (GAIN[1] + GAIN[3]) / sum(GAIN[:3])),
        ([1, 2, 3, 4, 5, 6, 7], {1, 2, 3, 4, 5, 6, 7}, 1),
        ([1, 2, 3, 4, 9, 5, 6], {1, 2, 3, 4, 5, 6}, sum(GAIN[:4]) / sum(GAIN)),
    ],
)
def test_ndcg_is_what_a_hand_finds(ranked, answers, expected):
    assert ndcg(ranked, answers) == pytest.approx(expected, abs=1e-12)


def test_answers_that_are_no_candidates_count_in_the_ideal():
    assert ndcg([1, 2, 3, 4, 5], {1, 77}) == pytest.approx(1 / (1 + GAIN[1]))
    assert ndcg([1, 2, 3, 4, 5], {77}) == 0


def test_fewer_than_five_candidates_gain_what_they_can():
    assert ndcg([1, 2], {1, 2}) == 1
    assert ndcg([9, 1], {1, 2}) == pytest.approx(GAIN[1] / (1 + GAIN[1]))
    assert ndcg([1], {1, 2, 3}) == pytest.approx(1 / sum(GAIN[:3]))


def test_ndcg_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(200):
        candidates = rng.permutation(int(rng.integers(5, 31)))
        relevant = rng.random(len(candidates)) < rng.uniform(0.1, 0.9)
        relevant[rng.integers(len(candidates))] = True
        scores = rng.permutation(len(candidates)).astype(float)
        ranked = candidates[np.argsort(-scores)].tolist()
        expected = ndcg_score([relevant.astype(float)], [scores], k=5)
        assert ndcg(ranked, set(candidates[relevant].tolist())) == pytest.approx(expected, abs=1e-12)


def test_figures_per_query_stand_in_the_order_of_the_answers():
    rankings = {"a": [1, 2], "b": [3, 4], "c": [5, 6]}
    found = ndcg_per_query(rankings, {"b": [4], "a": [1]})
    np.testing.assert_allclose(found, [GAIN[1], 1])


@pytest.mark.parametrize(
    ("ranked", "answers", "k", "expected"),
    [
        ([1, 2, 3], {1}, 1, 1),
        ([1, 2, 3], {2}, 1, 0),
        ([1, 9, 2, 8, 3, 4], {1, 2, 3, 4}, 5, 3 / 4),
        ([1, 2], {1, 2, 77, 78}, 5, 1 / 2),  # answers that are no candidates count
        ([9, 1, 8, 2], [1, 2, 2], 2, 1 / 2),
        (list(range(20)), {9, 10}, 10, 1 / 2),
    ],
)
def test_recall_is_what_a_hand_finds(ranked, answers, k, expected):
    assert recall(ranked, answers, k) == expected


@pytest.mark.parametrize(
    ("ranked", "answers", "expected"),
    [([1, 2, 3], {1, 3}, 1), ([9, 8, 1, 2], [2, 1], 1 / 3), ([9, 8], {1}, 0), ([*range(40)], {39}, 1 / 40)],
)
def test_the_reciprocal_rank_is_what_a_hand_finds(ranked, answers, expected):
    assert reciprocal_rank(ranked, answers) == expected


def test_all_metrics_of_all_queries_are_measured_and_described():
    rankings, answers = {"a": [1, 2], "b": [4, 3]}, {"b": [3], "a": [1, 2]}
    found = {name: figures.tolist() for name, figures in measure(rankings, answers).items()}
    assert found == {
        "NDCG@5": [pytest.approx(GAIN[1]), 1],
        "recall@1": [0, 1 / 2],
        "recall@5": [1, 1],
        "recall@10": [1, 1],
        "MRR": [1 / 2, 1],
    }
    assert describe_others(rankings, answers) == (
        "recall@1 0.250 [0.000, 0.500]  recall@5 1.000 [1.000, 1.000]  recall@10 1.000 [1.000, 1.000]  "
        "MRR 0.750 [0.500, 1.000]"
    )


@pytest.mark.parametrize(
    ("candidates", "answers"),
    [
        ([1, 2, 3], [2]),
        ([1, 2, 3, 4, 5, 6, 7], [1, 5]),
        ([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6]),
        ([1, 2, 3, 4, 5, 6], [1, 99]),
        ([1, 2, 3], [1, 2, 3, 4, 5, 6]),
        ([1, 2], [3]),
    ],
)
def test_the_random_figure_is_the_mean_over_all_orders(candidates, answers):
    expected = np.mean([ndcg(order, set(answers)) for order in permutations(candidates)])
    assert random_ndcg({"q": candidates}, {"q": answers}) == pytest.approx(expected, abs=1e-12)


def test_the_random_figure_is_the_mean_over_queries():
    candidates, answers = {"a": [1, 2, 3], "b": [4, 5], "c": [6]}, {"b": [4], "a": [1, 2]}
    each = [random_ndcg(candidates, {query: answers[query]}) for query in answers]
    assert random_ndcg(candidates, answers) == pytest.approx(np.mean(each))


def test_the_bootstrap_interval_is_about_two_standard_errors_to_either_side():
    per_query = np.random.default_rng(1).random(400)
    low, high = bootstrap_interval(per_query, draws=2000)
    error = 1.96 * per_query.std() / 20
    assert low == pytest.approx(per_query.mean() - error, abs=error / 10)
    assert high == pytest.approx(per_query.mean() + error, abs=error / 10)
    assert bootstrap_interval(per_query, draws=100) == bootstrap_interval(per_query, draws=100)
    assert bootstrap_interval(np.full(9, 0.25), draws=10) == (0.25, 0.25)
