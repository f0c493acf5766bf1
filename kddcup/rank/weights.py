"""The weights of a blend with the best mean NDCG@5, and what they are worth on other queries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from kddcup.rank.metrics import K, discount, ideal_dcg
from kddcup.rank.predictions import Predictions

GRID = np.stack([np.linspace(0, 1, 100), 1 - np.linspace(0, 1, 100)], 1)
"""[100, 2] the published grid of two models' weights."""
STEPS = 60
LINES = 200
STARTS = 20
FOLDS = 5
SEED = 2020
TOLERANCE = 1e-12
"""Means of NDCG@5 that are closer than this differ by rounding alone."""
BLENDS_AT_ONCE = 10
"""So many fit into a processor's cache."""


@dataclass(frozen=True)
class CandidateScores:
    """M models' scores of the C candidates of each of Q queries.

    Args:
        scores: [M, Q, C] a query's candidates in the order in which they stand where their scores tie.
        gains: [Q, C] what a candidate at rank 1 adds to its query's NDCG@5; 0 where it is not relevant.
    """

    scores: np.ndarray
    gains: np.ndarray

    @classmethod
    def of(cls, models: Sequence[Predictions], answers: Mapping[str, list[int]]) -> "CandidateScores":
        """Those of the queries that have answers, in the first model's order.

        Args:
            models: each the scores of the same candidates by query.
            answers: relevant product ids by query id.
        """
        width = max(K, *(len(models[0][query]) for query in answers))
        # A query has at least as many places as NDCG looks at. Those past its candidates score lowest, at
        # half of what would overflow in a sum, and gain nothing.
        scores = np.full((len(models), len(answers), width), np.finfo(float).min / 2)
        gains = np.zeros((len(answers), width))
        for row, (query, relevant) in enumerate(answers.items()):
            wanted = set(relevant)
            products = [product for product, _ in models[0][query]]
            for model, predictions in enumerate(models):
                by_product = dict(predictions[query])
                scores[model, row, : len(products)] = [by_product[product] for product in products]
            gains[row, : len(products)] = [product in wanted for product in products]
            gains[row] /= ideal_dcg(len(wanted))
        return cls(scores, gains)

    def take(self, queries: np.ndarray) -> "CandidateScores":
        """Those of the queries at these positions."""
        return CandidateScores(self.scores[:, queries], self.gains[queries])

    def blend(self, weights: np.ndarray) -> np.ndarray:
        """[B, Q, C] the blends' scores at B weights of each model, [B, M]."""
        # Model after model, as fusion.weighted_sum does, so that both round alike.
        total = weights[:, 0, None, None] * self.scores[0]
        for model in range(1, len(self.scores)):
            total += weights[:, model, None, None] * self.scores[model]
        return total

    def ndcg(self, weights: np.ndarray) -> np.ndarray:
        """[B, Q] NDCG@5 of the blends at B weights of each model, [B, M]."""
        blocks = []
        for block in np.array_split(weights, -(-len(weights) // BLENDS_AT_ONCE)):
            blended = self.blend(block)
            figures = np.zeros(blended.shape[:2])
            for rank in range(K):
                best = blended.argmax(2, keepdims=True)  # of equals the first
                figures += discount(rank) * np.take_along_axis(self.gains[None], best, 2)[:, :, 0]
                np.put_along_axis(blended, best, -np.inf, 2)
            blocks.append(figures)
        return np.concatenate(blocks)

    def mean_ndcg(self, weights: np.ndarray) -> float:
        """The mean NDCG@5 of the blend at a weight of each model, [M]."""
        return float(self.ndcg(weights[None]).mean())


class Plateau(NamedTuple):
    """A stretch of weights over which the mean NDCG@5 is the same; ``low == high`` is a knot alone."""

    low: float
    high: float
    ndcg: float

    @property
    def middle(self) -> float:
        """The weight that is farthest from where the figure changes."""
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class Curve:
    """The mean NDCG@5 of w · first + (1 − w) · second for every w from 0 to 1, exactly (after Och, 2003).

    The difference of two candidates' scores is linear in w. So their order changes at one w at most, and
    NDCG changes only there, if one of the two is relevant and the other is not. At such a knot the two tie,
    and the one that is earlier in its query stands first: the figure at a knot may be that before it, that
    after it, or, where several pairs swap at once, one of its own.

    Args:
        knots: [N] ascending, from 0 to 1.
        at: [N] the figure at each knot.
        after: [N−1] the figure between each knot and the next.
    """

    knots: np.ndarray
    at: np.ndarray
    after: np.ndarray

    @classmethod
    def between(cls, first: np.ndarray, second: np.ndarray, gains: np.ndarray) -> "Curve":
        """The curve of two models.

        Args:
            first: [Q, C] its scores of each query's candidates.
            second: [Q, C] those of the other.
            gains: [Q, C] what a candidate at rank 1 adds to its query's NDCG@5; 0 where it is not relevant.
        """
        first, second = first / 4, second / 4  # so that no difference overflows
        relevant = gains > 0
        row, place = np.nonzero(relevant)  # [hits] of all queries: which query, and where in it
        misses = ~relevant[row]  # [hits, C]
        ahead_at_0, ahead_at_1 = _precede(second, row, place), _precede(first, row, place)
        pair, miss = np.nonzero(misses & (ahead_at_0 != ahead_at_1))
        query, hit = row[pair], place[pair]
        lead_at_1 = first[query, hit] - first[query, miss]
        lead_at_0 = second[query, hit] - second[query, miss]
        knot = lead_at_0 / (lead_at_0 - lead_at_1)
        falls = ahead_at_0[pair, miss]
        late = (hit < miss) == falls  # the tie at the knot still is in the order before it
        order = np.lexsort((late, knot, query))
        query, hit, knot, falls, late = (values[order] for values in (query, hit, knot, falls, late))

        # An example: the hit h stands behind the miss m at w = 0, ahead of it at w = 1, and they tie at 0.3.
        # Then h has a miss less ahead of it from that knot on; at the knot itself too if h is the earlier in
        # its query, else only after it (``late``).

        # A query's figure follows from how many misses stand ahead of each of its hits.
        column = relevant.cumsum(1) - 1
        misses_ahead = np.full((len(gains), max(1, relevant.sum(1).max())), K)  # [Q, hits of a query]
        misses_ahead[row, column[row, place]] = (misses & ~ahead_at_0).sum(1)
        swaps = np.zeros((1 + len(query), misses_ahead.shape[1]), int)
        swaps[1 + np.arange(len(query)), column[query, hit]] = np.where(falls, 1, -1)
        swapped = swaps.cumsum(0)  # [1 + swaps, hits], over all queries
        begins = np.searchsorted(query, np.arange(len(gains)))
        base = (misses_ahead - swapped[begins])[query]
        unit = gains.max(1)
        change = unit[query] * (_dcg(base + swapped[1:]) - _dcg(base + swapped[:-1]))

        # The ends 0 and 1 are knots too, at which nothing swaps. Of the steps, 2k is at knot k, 2k + 1 after.
        knots, index = np.unique(np.concatenate([knot, [0.0, 1.0]]), return_inverse=True)
        steps = np.bincount(2 * index[: len(knot)] + late, change, 2 * len(knots))
        figures = ((unit * _dcg(misses_ahead)).sum() + steps.cumsum()) / len(gains)
        return cls(knots, figures[::2], figures[1:-1:2])

    def plateaus(self) -> Iterator[Plateau]:
        """All stretches of one figure: the highest first, and the widest of those that tie."""
        figures = np.empty(2 * len(self.knots) - 1)
        figures[::2], figures[1::2] = self.at, self.after
        begins = np.flatnonzero(np.abs(np.diff(figures, prepend=np.inf)) > TOLERANCE)
        ends = np.append(begins[1:], len(figures)) - 1
        low, high, ndcg = self.knots[begins // 2], self.knots[(ends + 1) // 2], figures[begins]
        left = ndcg.copy()
        for _ in begins:
            tied = np.flatnonzero(left >= left.max() - TOLERANCE)
            widest = tied[np.argmax((high - low)[tied])]
            left[widest] = -np.inf
            yield Plateau(float(low[widest]), float(high[widest]), float(ndcg[widest]))


def _precede(scores: np.ndarray, row: np.ndarray, place: np.ndarray) -> np.ndarray:
    """[hits, C] whether each hit stands before each candidate of its query; of equal scores the earlier does.

    Args:
        scores: [Q, C].
        row: [hits] the query of each.
        place: [hits] where it is in its query.
    """
    hit, candidates = scores[row, place][:, None], scores[row]
    earlier = place[:, None] < np.arange(scores.shape[1])
    return (hit > candidates) | ((hit == candidates) & earlier)


def _dcg(misses_ahead: np.ndarray) -> np.ndarray:
    """[N] DCG@5 of lists, by the number of misses ahead of each of their hits, [N, hits]."""
    return discount(np.sort(misses_ahead, 1) + np.arange(misses_ahead.shape[1])).sum(1)


def search_grid(candidates: CandidateScores) -> np.ndarray:
    """[2] the first weights of ``GRID`` with the best mean NDCG@5; for two models."""
    return GRID[candidates.ndcg(GRID).mean(1).argmax()]


def search_exact(candidates: CandidateScores) -> np.ndarray:
    """[2] the best of all weights from 0 to 1 and of sum 1; for two models.

    Of equal ones they are the middle of the widest plateau.
    """
    # Where scores differ in their last digits only, blends round to ties that the curve does not have.
    grid = search_grid(candidates)
    exact, figure = _search_line(candidates, *np.eye(2))
    return grid if candidates.mean_ndcg(grid) > figure + TOLERANCE else exact


def search_local(candidates: CandidateScores) -> np.ndarray:
    """[M] good weights, not negative and of sum 1; there may be better ones.

    First the best weights are found of each of some ``LINES`` lines that cross the points of a grid. From the
    ``STARTS`` best of these, and of the points themselves, a coordinate search goes on: a step takes the best
    share of one model, the ratio of the others kept, and of the models the one with which most is gained.
    """
    grid = _simplex_grid(len(candidates.scores))
    lines = list(_grid_lines(grid))
    # Closed before figures are printed.
    with tqdm(lines, desc="blend", disable=None, leave=False) as bar:
        found = [_search_line(candidates, *line) for line in bar]
    # At a point of the grid scores may tie that do not where a line crosses it, by rounding.
    found += zip(grid, candidates.ndcg(grid).mean(1).tolist(), strict=True)
    starts = sorted(found, key=lambda found: -found[1])[:STARTS]
    weights, _ = max((_climb(candidates, *start) for start in starts), key=lambda found: found[1])
    return weights


def _simplex_grid(models: int) -> np.ndarray:
    """[N, M] all weights of sum 1 that are multiples of 1 / steps, of as many as ``LINES`` cross."""
    pairs = comb(models, 2)
    steps = max(n for n in range(1, STEPS + 1) if n == 1 or pairs * comb(n + models - 3, n - 1) <= LINES)
    # The models' shares lie between bars put among the steps.
    places = steps + models - 1
    shares = [np.diff([-1, *bars, places]) - 1 for bars in combinations(range(places), models - 1)]
    return np.array(shares) / steps


def _grid_lines(grid: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The ends [M] of the lines through points of a grid [N, M] on which two models share."""
    for giver, taker in combinations(range(grid.shape[1]), 2):
        for start in grid[(grid[:, giver] > 0) & (grid[:, taker] == 0)]:
            end = start.copy()
            end[[giver, taker]] = end[[taker, giver]]
            yield start, end


def _climb(candidates: CandidateScores, weights: np.ndarray, figure: float) -> tuple[np.ndarray, float]:
    """Coordinate search from ``weights`` [M] of the mean NDCG@5 ``figure``: where it ends, and the figure."""
    while True:
        steps = []
        for alone in np.eye(len(weights))[weights < 1]:
            others = np.where(alone, 0, weights)
            steps.append(_search_line(candidates, alone, others / others.sum()))
        best, highest = max(steps, key=lambda found: found[1], default=(weights, figure))
        if highest <= figure + TOLERANCE:
            return weights, figure
        weights, figure = best, highest


def _search_line(
    candidates: CandidateScores, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, float]:
    """The best weights [M] between two, and their mean NDCG@5."""
    ends = candidates.blend(np.stack([first, second]))
    best, figure = first, -np.inf
    for plateau in Curve.between(*ends, candidates.gains).plateaus():
        # A plateau may be so narrow, or be a tie, that no blend in floating point is on it.
        if figure >= plateau.ndcg - TOLERANCE:
            break
        middle = plateau.middle * first + (1 - plateau.middle) * second
        if (blended := candidates.mean_ndcg(middle)) > figure:
            best, figure = middle, blended
    return best, figure


def cross_validate(
    search: Callable[[CandidateScores], np.ndarray], candidates: CandidateScores
) -> np.ndarray:
    """[Q] NDCG@5 of each query at the weights that ``search`` finds on the other folds of the queries.

    The folds, ``FOLDS`` or as many as there are queries, are drawn with a fixed seed; their sizes differ by
    one at most.

    Args:
        search: gives the weights [M] for candidates.
        candidates: of two queries at least.
    """
    queries = len(candidates.gains)
    figures = np.empty(queries)
    drawn = np.random.default_rng(SEED).permutation(queries)
    for held_out in np.array_split(drawn, min(FOLDS, queries)):
        weights = search(candidates.take(np.setdiff1d(drawn, held_out)))
        figures[held_out] = candidates.take(held_out).ndcg(weights[None])[0]
    return figures
