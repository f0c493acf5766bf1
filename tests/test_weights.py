from functools import cache

import numpy as np
import pytest

from kddcup.rank.curve import Curve
from kddcup.rank.fusion import weighted_sum
from kddcup.rank.metrics import ndcg_per_query
from kddcup.rank.predictions import ranking
from kddcup.rank.weights import (
    GRID,
    CandidateScores,
    cross_validate,
    search_bagged,
    search_exact,
    search_grid,
    search_local,
)


def draw(seed, models, levels, queries=30):
    """Scores and answers; few ``levels`` make ties, and the models know something."""
    rng = np.random.default_rng(seed)
    predictions, answers = [{} for _ in range(models)], {}
    for query in map(str, range(queries)):
        products = rng.permutation(int(rng.integers(3, 15))).tolist()
        answers[query] = rng.choice(16, 4, replace=False).tolist()
        for model in predictions:
            scores = rng.integers(0, levels, len(products)) + levels // 3 * np.isin(products, answers[query])
            model[query] = sorted(
                zip(products, scores.tolist(), strict=True), key=lambda candidate: -candidate[1]
            )
    return predictions, answers


def mean_ndcg(models, weights, answers):
    return ndcg_per_query(ranking(weighted_sum(models, weights)), answers).mean()


def one_query(*models):
    """Models of the scores of products 1, 2, …."""
    return [{"q": list(enumerate(scores, 1))} for scores in models]


def merge(*parts):
    """Models of several queries from :func:`one_query` of each."""
    return [
        {str(place): model["q"] for place, model in enumerate(models)} for models in zip(*parts, strict=True)
    ]


def curve(candidates):
    return Curve.between(*candidates.scores, candidates.gains)


def test_the_grid_has_a_hundred_weights_of_the_first_model_from_zero_to_one():
    np.testing.assert_array_equal(GRID[:, 0], np.linspace(0, 1, 100))
    np.testing.assert_array_equal(GRID[:, 1], 1 - np.linspace(0, 1, 100))


@pytest.mark.parametrize("levels", [4, 10**9])
def test_every_weight_of_the_grid_gives_what_its_blend_gives_and_the_first_of_the_best_is_taken(levels):
    rng = np.random.default_rng(levels)
    # Few values tie; some queries have fewer than five candidates, some many, and some have no answers.
    models, answers = [{}, {}], {}
    for query in map(str, range(40)):
        products = rng.permutation(int(rng.integers(1, 30))).tolist()
        for model, order in zip(models, (1, -1), strict=True):
            model[query] = [(product, float(rng.integers(levels))) for product in products[::order]]
        if rng.random() < 0.8:
            answers[query] = rng.permutation(30)[: rng.integers(1, 8)].tolist()
    expected = np.array([mean_ndcg(models, weights, answers) for weights in GRID.tolist()])
    candidates = CandidateScores.of(models, answers)
    np.testing.assert_allclose(candidates.ndcg(GRID).mean(1), expected, rtol=0, atol=1e-12)
    first = np.isclose(expected, expected.max(), rtol=0, atol=1e-12).argmax()
    assert search_grid(candidates).tolist() == GRID[first].tolist()


def test_the_first_of_the_best_weights_is_taken():
    # Product 1 leads at every weight above one half, the first of which is 50/99.
    models = one_query([1, 0], [0, 1])
    for answer, place in ((1, 50), (2, 0), (3, 0)):
        assert search_grid(CandidateScores.of(models, {"q": [answer]})).tolist() == GRID[place].tolist()


@pytest.mark.parametrize("levels", [4, 1000, 10**15])
@pytest.mark.parametrize("seed", range(5))
def test_no_weight_blends_better_than_the_one_that_is_found(seed, levels):
    models, answers = draw(seed, 2, levels)
    candidates = CandidateScores.of(models, answers)
    knots = curve(candidates).knots
    others = np.concatenate([GRID[:, 0], (knots[1:] + knots[:-1]) / 2])
    best = max(mean_ndcg(models, (w, 1 - w), answers) for w in others.tolist())
    for search in (search_exact, search_local):
        weights = search(candidates)
        assert mean_ndcg(models, weights.tolist(), answers) >= best - 1e-12
        assert weights.sum() == 1


def test_a_weight_at_which_scores_tie_is_found_where_it_is_the_best():
    # In both queries the hit is the earlier: one has risen at the tie, the other has not yet fallen.
    models = merge(one_query([1, 0], [0, 1]), one_query([0, 1], [1, 0]))
    assert search_exact(CandidateScores.of(models, {"0": [1], "1": [1]})).tolist() == [0.5, 0.5]


def test_of_equal_optima_the_middle_of_the_widest_is_taken():
    # The hit stands first below 0.3 in one query, and above 0.4 in the other.
    models = merge(one_query([0, 7], [3, 0]), one_query([6, 0], [0, 4]))
    assert search_exact(CandidateScores.of(models, {"0": [1], "1": [1]})) == pytest.approx([0.7, 0.3])


def test_bagged_weights_are_the_mean_of_a_resamples_best():
    # Of weights k/60 of the first model, the hit leads where k < 30; at 30 it ties and stands second.
    candidates = CandidateScores.of(one_query([1, 0], [0, 1]), {"q": [2]})
    assert search_bagged(candidates) == pytest.approx([14.5 / 60, 45.5 / 60])


def test_bagged_weights_are_the_mean_over_resamples():
    # The first query wants k from 30 to 60, the second from 0 to 29. A resample has one of them alone, each
    # in a quarter of the cases, or both, and then all k are as good.
    models = merge(one_query([1, 0], [0, 1]), one_query([1, 0], [0, 1]))
    candidates = CandidateScores.of(models, {"0": [1], "1": [2]})
    first, second, both = 45 / 60, 14.5 / 60, 30 / 60
    expected = 0.25 * first + 0.25 * second + 0.5 * both
    assert search_bagged(candidates)[0] == pytest.approx(expected, abs=0.02)


def test_bagged_weights_of_many_models_sum_to_one_and_are_the_same_again():
    candidates = CandidateScores.of(*draw(0, 6, 1000, queries=10))
    weights = search_bagged(candidates)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    assert weights.tolist() == search_bagged(candidates).tolist()


def test_an_optimum_that_no_blend_in_floating_point_comes_to_is_not_claimed():
    # Two hits lead above 0.3 / 0.4, one below 1 / 3, and two below 3 / 4, which is more by rounding.
    above, below = one_query([0, 0.1], [0.3, 0]), one_query([1, 0], [0, 3])
    models = merge(above, above, below, below, one_query([1, 0], [0, 0.5]))
    answers = {str(query): [2] for query in range(5)}
    second = 1 / np.log2(3)
    candidates = CandidateScores.of(models, answers)
    assert next(curve(candidates).plateaus()).ndcg == pytest.approx((4 + second) / 5)
    weights = search_exact(candidates)
    assert weights == pytest.approx([1 / 6, 5 / 6])
    assert mean_ndcg(models, weights.tolist(), answers) == pytest.approx((3 + 2 * second) / 5)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_never_below_the_grid_where_scores_differ_in_their_last_digit(seed):
    models, answers = draw(seed, 2, 4)
    shifted = [
        {
            query: [(product, 2.0**53 + 2 * score) for product, score in candidates]
            for query, candidates in model.items()
        }
        for model in models
    ]
    candidates = CandidateScores.of(shifted, answers)
    assert (
        candidates.mean_ndcg(search_exact(candidates))
        >= candidates.mean_ndcg(search_grid(candidates)) - 1e-12
    )


def test_three_models_are_blended_where_no_two_suffice():
    # Three queries, each of which only one model ranks right, and outvotes the others from 2/7.
    models = merge(*(one_query(*np.where(np.eye(3)[[i]].T, [1, 0], [0, 0.4]).tolist()) for i in range(3)))
    answers = {"0": [1], "1": [1], "2": [1]}
    weights = search_local(CandidateScores.of(models, answers))
    assert weights.min() > 2 / 7
    assert mean_ndcg(models, weights.tolist(), answers) == 1
    for pair in ([0, 1], [0, 2], [1, 2]):
        candidates = CandidateScores.of([models[i] for i in pair], answers)
        assert candidates.mean_ndcg(search_exact(candidates)) < 0.9


@cache
def grid_of_three():
    return np.array([(i, j, 60 - i - j) for i in range(61) for j in range(61 - i)]) / 60


# Ties and few queries make plateaus that are narrow, or single points, and far apart.
@pytest.mark.parametrize(
    "cases", [range(6), pytest.param(range(6, 200), marks=pytest.mark.slow)], ids=["few", "200"]
)
def test_the_local_search_is_as_good_as_a_grid_of_sixtieths_and_10_000_random_weights(cases):
    for case in cases:
        levels, queries = ((1000, 30), (1000, 6), (4, 30))[case % 3]
        candidates = CandidateScores.of(*draw(case, 3, levels, queries))
        weights = search_local(candidates)
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1, abs=1e-15)
        random = np.random.default_rng(case).dirichlet(np.ones(3), 10_000)
        best = candidates.ndcg(np.concatenate([grid_of_three(), random])).mean(1).max()
        assert candidates.mean_ndcg(weights) >= best - 1e-12, case


@pytest.mark.parametrize("models", [3, 4])
def test_more_models_are_never_worse_than_the_best_pair(models):
    predictions, answers = draw(models, models, 1000)
    candidates = CandidateScores.of(predictions, answers)
    figure = candidates.mean_ndcg(search_local(candidates))
    for first in range(models):
        for second in range(first):
            pair = CandidateScores.of([predictions[second], predictions[first]], answers)
            assert figure >= pair.mean_ndcg(search_exact(pair)) - 1e-12


def test_copies_of_a_model_and_models_that_know_nothing_cost_nothing():
    models, answers = draw(0, 2, 1000)
    alike = {query: [(product, 0.5) for product, _ in candidates] for query, candidates in models[0].items()}
    best = mean_ndcg(models, search_exact(CandidateScores.of(models, answers)).tolist(), answers)
    for more in ([*models, models[0]], [*models, alike]):
        weights = search_local(CandidateScores.of(more, answers)).tolist()
        assert mean_ndcg(more, weights, answers) >= best - 1e-12
    copies = CandidateScores.of([models[0]] * 3, answers)
    assert copies.mean_ndcg(search_local(copies)) == pytest.approx(mean_ndcg(models, [1, 0], answers))


def test_one_model_alone_has_all_the_weight():
    assert search_local(CandidateScores.of(*draw(0, 1, 1000))).tolist() == [1]


def test_many_models_are_blended():
    weights = search_local(CandidateScores.of(*draw(0, 12, 1000, queries=6)))
    assert weights.shape == (12,)
    assert weights.sum() == pytest.approx(1)


def test_the_search_finds_the_same_each_time():
    candidates = CandidateScores.of(*draw(1, 3, 1000))
    assert search_local(candidates).tolist() == search_local(candidates).tolist()


def test_each_query_is_scored_once_at_weights_fitted_without_it():
    candidates, fitted = CandidateScores.of(*draw(0, 2, 1000)), []

    def search(rest):
        fitted.append(rest)
        return np.array([1.0, 0.0])

    figures = cross_validate(search, candidates)
    np.testing.assert_allclose(figures, candidates.ndcg(np.array([[1.0, 0.0]]))[0])
    assert [len(rest.gains) for rest in fitted] == [24] * 5
    held_out = [
        {query.tobytes() for query in candidates.scores[0]} - {query.tobytes() for query in rest.scores[0]}
        for rest in fitted
    ]
    assert sum(map(len, held_out)) == len(set().union(*held_out)) == 30


def test_what_the_other_folds_fit_is_what_a_query_is_scored_at():
    # One hit stands first below 0.3, the other above 0.4: each is scored at the best of the other.
    models = merge(one_query([0, 7], [3, 0]), one_query([6, 0], [0, 4]))
    candidates = CandidateScores.of(models, {"0": [1], "1": [1]})
    np.testing.assert_allclose(cross_validate(search_exact, candidates), 1 / np.log2(3))
