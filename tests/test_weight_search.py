import numpy as np
import pytest

from kddcup.rank.blending import blend, contenders, ndcg_curve, weighted_sum
from kddcup.rank.metrics import ndcg_per_query
from kddcup.rank.predictions import ranking
from kddcup.rank.weight_search import WEIGHTS, cross_validated, search_exact, search_grid


def drawn(seed, models, levels, queries=30):
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


def reached(models, weights, answers):
    return ndcg_per_query(ranking(weighted_sum(models, weights)), answers).mean()


def one_query(*models):
    """Models of the scores of products 1, 2, …."""
    return [{"q": list(enumerate(scores, 1))} for scores in models]


def merged(*parts):
    """Models of several queries from :func:`one_query` of each."""
    return [
        {str(place): model["q"] for place, model in enumerate(models)} for models in zip(*parts, strict=True)
    ]


@pytest.mark.parametrize("levels", [4, 1000, 10**15])
@pytest.mark.parametrize("seed", range(5))
def test_no_weight_blends_better_than_the_one_that_is_found(seed, levels):
    models, answers = drawn(seed, 2, levels)
    weights = search_exact(contenders(models, answers))
    knots = ndcg_curve(*models, answers).knots
    others = np.concatenate([WEIGHTS, (knots[1:] + knots[:-1]) / 2])
    best = max(ndcg_per_query(ranking(blend(*models, w)), answers).mean() for w in others.tolist())
    assert reached(models, weights.tolist(), answers) >= best - 1e-12
    assert weights.sum() == 1


def test_a_weight_at_which_scores_tie_is_found_where_it_is_the_best():
    # In both queries the hit is the earlier: one has risen at the tie, the other has not yet fallen.
    models = merged(one_query([1, 0], [0, 1]), one_query([0, 1], [1, 0]))
    assert search_exact(contenders(models, {"0": [1], "1": [1]})).tolist() == [0.5, 0.5]


def test_of_equal_optima_the_middle_of_the_widest_is_taken():
    # The hit stands first below 0.3 in one query, and above 0.4 in the other.
    models = merged(one_query([0, 7], [3, 0]), one_query([6, 0], [0, 4]))
    assert search_exact(contenders(models, {"0": [1], "1": [1]})) == pytest.approx([0.7, 0.3])


def test_an_optimum_that_no_blend_in_floating_point_reaches_is_not_claimed():
    # Two hits lead above 0.3 / 0.4, one below 1 / 3, and two below 3 / 4, which is more by rounding.
    above, below = one_query([0, 0.1], [0.3, 0]), one_query([1, 0], [0, 3])
    models = merged(above, above, below, below, one_query([1, 0], [0, 0.5]))
    answers = {str(query): [2] for query in range(5)}
    second = 1 / np.log2(3)
    assert next(ndcg_curve(*models, answers).plateaus()).ndcg == pytest.approx((4 + second) / 5)
    weights = search_exact(contenders(models, answers))
    assert weights == pytest.approx([1 / 6, 5 / 6])
    assert reached(models, weights.tolist(), answers) == pytest.approx((3 + 2 * second) / 5)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_never_below_the_grid_where_scores_differ_in_their_last_digit(seed):
    models, answers = drawn(seed, 2, 4)
    shifted = [
        {
            query: [(product, 2.0**53 + 2 * score) for product, score in candidates]
            for query, candidates in model.items()
        }
        for model in models
    ]
    judged = contenders(shifted, answers)
    assert judged.mean_ndcg(search_exact(judged)) >= judged.mean_ndcg(search_grid(judged)) - 1e-12


def needs_all_three():
    """Three queries, each of which only one model ranks right, and outvotes the others from 2/7."""
    return merged(*(one_query(*np.where(np.eye(3)[[i]].T, [1, 0], [0, 0.4]).tolist()) for i in range(3)))


def test_three_models_are_blended_where_no_two_suffice():
    models, answers = needs_all_three(), {"0": [1], "1": [1], "2": [1]}
    weights = search_exact(contenders(models, answers))
    assert weights.min() > 2 / 7
    assert reached(models, weights.tolist(), answers) == 1
    for pair in ([0, 1], [0, 2], [1, 2]):
        two = [models[i] for i in pair]
        assert reached(two, search_exact(contenders(two, answers)).tolist(), answers) < 0.9


# From 23, one start alone ends below the best pair, and so do steps of one model after the other.
@pytest.mark.parametrize(("seed", "queries"), [(0, 30), (1, 30), (23, 6)])
def test_more_models_are_never_worse_than_the_best_pair(seed, queries):
    models, answers = drawn(seed, 3, 1000, queries)
    weights = search_exact(contenders(models, answers))
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-15)
    for first in range(3):
        for second in range(first):
            pair = [models[second], models[first]]
            assert reached(models, weights.tolist(), answers) >= (
                reached(pair, search_exact(contenders(pair, answers)).tolist(), answers) - 1e-12
            )


def test_copies_of_a_model_and_models_that_know_nothing_cost_nothing():
    models, answers = drawn(0, 2, 1000)
    alike = {query: [(product, 0.5) for product, _ in candidates] for query, candidates in models[0].items()}
    best = reached(models, search_exact(contenders(models, answers)).tolist(), answers)
    for more in ([*models, models[0]], [*models, alike]):
        assert reached(more, search_exact(contenders(more, answers)).tolist(), answers) >= best - 1e-12
    copies = contenders([models[0]] * 3, answers)
    assert copies.mean_ndcg(search_exact(copies)) == pytest.approx(reached(models, [1, 0], answers))


def test_one_model_alone_has_all_the_weight():
    models, answers = drawn(0, 1, 1000)
    assert search_exact(contenders(models, answers)).tolist() == [1]


def test_the_search_finds_the_same_each_time():
    models, answers = drawn(1, 3, 1000)
    judged = contenders(models, answers)
    assert search_exact(judged).tolist() == search_exact(judged).tolist()


def test_each_query_is_judged_once_at_weights_fitted_without_it():
    models, answers = drawn(0, 2, 1000)
    judged, fitted = contenders(models, answers), []

    def search(some):
        fitted.append(some)
        return np.array([1.0, 0.0])

    found = cross_validated(search, judged)
    np.testing.assert_allclose(found, judged.ndcg(np.array([[1.0, 0.0]]))[0])
    assert [len(some.gains) for some in fitted] == [24] * 5
    held_out = [
        {query.tobytes() for query in judged.scores[0]} - {query.tobytes() for query in some.scores[0]}
        for some in fitted
    ]
    assert sum(map(len, held_out)) == len(set().union(*held_out)) == 30


def test_what_the_other_folds_fit_is_what_a_query_is_judged_at():
    # One hit stands first below 0.3, the other above 0.4: each is judged at the best of the other.
    models = merged(one_query([0, 7], [3, 0]), one_query([6, 0], [0, 4]))
    judged = contenders(models, {"0": [1], "1": [1]})
    np.testing.assert_allclose(cross_validated(search_exact, judged), 1 / np.log2(3))
