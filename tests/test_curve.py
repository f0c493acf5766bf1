from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from kddcup.rank.curve import Curve
from kddcup.rank.metrics import ndcg

SECOND = 1 / np.log2(3)
THIRD = 0.5


def curve(first, second, hits):
    """The curve of one query or several, a hit gaining 1 as in a query of one answer."""
    first, second, hits = (np.atleast_2d(values).astype(float) for values in (first, second, hits))
    return Curve.between(first, second, hits)


def assert_curve(found, knots, at, after):
    np.testing.assert_allclose(found.knots, knots)
    np.testing.assert_allclose(found.at, at)
    np.testing.assert_allclose(found.after, after)


def test_a_hit_overtakes_where_the_scores_cross():
    # At weight w the hit has w and the miss 3 · (1 − w).
    assert_curve(curve([1, 0], [0, 3], [1, 0]), [0, 0.75, 1], [SECOND, 1, 1], [SECOND, 1])


def test_at_the_crossing_the_earlier_stands_first():
    assert_curve(curve([0, 1], [1, 0], [0, 1]), [0, 0.5, 1], [SECOND, SECOND, 1], [SECOND, 1])
    assert_curve(curve([0, 1], [1, 0], [1, 0]), [0, 0.5, 1], [1, 1, SECOND], [1, SECOND])


def test_a_knot_may_have_a_figure_of_its_own():
    # Both hits are the earlier: one has risen at the tie, the other has not yet fallen.
    found = curve([[1, 0], [0, 1]], [[0, 1], [1, 0]], [[1, 0], [1, 0]])
    side = (1 + SECOND) / 2
    assert_curve(found, [0, 0.5, 1], [side, 1, side], [side, side])


def test_scores_that_tie_at_an_end_tie_nowhere_else():
    assert_curve(curve([0, 1], [0, 0], [0, 1]), [0, 1], [SECOND, 1], [1])
    assert_curve(curve([0, 0], [0, 1], [0, 1]), [0, 1], [1, SECOND], [1])


def test_swaps_of_two_hits_or_of_two_misses_change_nothing():
    assert_curve(curve([3, 2, 1, 0], [2, 3, 0, 1], [1, 1, 0, 0]), [0, 1], [1 + SECOND] * 2, [1 + SECOND])


def test_hits_past_the_fifth_rank_gain_nothing():
    found = curve([9, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [1, 0, 0, 0, 0, 0])
    # The hit has 9 w, the misses 1 … 5: it passes one after the other.
    gains = [0, *1 / np.log2([6, 5, 4, 3, 2])]
    assert_curve(found, [0, *np.arange(1, 6) / 9, 1], [*gains, 1], gains)


def test_a_query_without_a_hit_counts_in_the_mean():
    assert_curve(
        curve([[1, 0]] * 2, [[0, 1]] * 2, [[1, 0], [0, 0]]),
        [0, 0.5, 1],
        [SECOND / 2, 0.5, 0.5],
        [SECOND / 2, 0.5],
    )


def test_the_largest_scores_do_not_overflow():
    largest = np.finfo(float).max
    with np.errstate(all="raise"):
        found = curve([largest, -largest], [-largest, largest], [1, 0])
    assert_curve(found, [0, 0.5, 1], [SECOND, 1, 1], [SECOND, 1])


@pytest.mark.parametrize("levels", [3, 1000])
def test_the_curve_is_what_exact_arithmetic_gives_at_and_between_all_knots(levels):
    rng = np.random.default_rng(levels)
    for _ in range(30):
        queries, candidates = rng.integers(1, 4), rng.integers(5, 9)
        first, second = rng.integers(0, levels, (2, queries, candidates))
        hits = rng.random((queries, candidates)) < 0.4
        found = curve(first, second, hits)
        knots = [Fraction(knot).limit_denominator(10 * levels) for knot in found.knots]
        points = [*knots, *((low + high) / 2 for low, high in pairwise(knots))]
        expected = []
        for w in points:
            figures = []
            for scores1, scores2, relevant in zip(first.tolist(), second.tolist(), hits, strict=True):
                blended = [
                    w * score1 + (1 - w) * score2 for score1, score2 in zip(scores1, scores2, strict=True)
                ]
                ranked = sorted(range(candidates), key=lambda place, blended=blended: -blended[place])
                # As if of one answer each, so that a hit at rank 1 gains 1.
                figures.append(sum(ndcg(ranked, {place}) for place in np.flatnonzero(relevant).tolist()))
            expected.append(np.mean(figures))
        np.testing.assert_allclose([*found.at, *found.after], expected, atol=1e-12)


def test_plateaus_come_best_first_and_the_widest_of_those_that_tie():
    found = Curve(
        np.array([0, 0.1, 0.4, 0.6, 0.8, 1]),
        np.array([0.5, 0.7, 0.9, 0.9, 0.2, 0.7]),
        np.array([0.7, 0.7, 0.2, 0.5, 0.7 + 1e-15]),
    )
    assert [(low, high) for low, high, _ in found.plateaus()] == [
        (0.4, 0.4),
        (0.6, 0.6),
        (0, 0.4),
        (0.8, 1),
        (0.6, 0.8),
        (0, 0),
        (0.4, 0.6),
        (0.8, 0.8),
    ]
    assert next(found.plateaus()).ndcg == 0.9
