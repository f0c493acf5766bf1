"""The weights of a blend with the best mean NDCG@5, and what they are worth on other queries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from kddcup.rank.curve import TOLERANCE, Curve
from kddcup.rank.metrics import K, discount, ideal_dcg
from kddcup.rank.predictions import Predictions

GRID = np.stack([np.linspace(0, 1, 100), 1 - np.linspace(0, 1, 100)], 1)
"""[100, 2] the published grid of two models' weights."""
STEPS = 60
"""The finest grid of weights has multiples of 1 / STEPS."""
LINES = 200
"""So many lines cross that of the local search, at most; a grid of many models is coarser."""
POINTS = 1000
"""So many points has that of the bagged search, at most."""
RESAMPLES = 1000
STARTS = 20
"""So many of the best points are where coordinate searches begin."""
FOLDS = 5
SEED = 2020
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
        """Take those of the queries that have answers, in the first model's order.

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
        """Select queries by their positions."""
        return CandidateScores(self.scores[:, queries], self.gains[queries])

    def blend(self, weights: np.ndarray) -> np.ndarray:
        """Blend the scores at B weights of each model, [B, M], into [B, Q, C]."""
        # Model after model, as fusion.weighted_sum does, so that both round alike.
        total = weights[:, 0, None, None] * self.scores[0]
        for model in range(1, len(self.scores)):
            total += weights[:, model, None, None] * self.scores[model]
        return total

    def ndcg(self, weights: np.ndarray) -> np.ndarray:
        """Compute NDCG@5 [B, Q] of the blends at B weights of each model, [B, M]."""
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
        """Compute the mean NDCG@5 of the blend at a weight of each model, [M]."""
        return float(self.ndcg(weights[None]).mean())


class Optimum(NamedTuple):
    """The best weights [M] somewhere, and their mean NDCG@5."""

    weights: np.ndarray
    ndcg: float


def search_grid(candidates: CandidateScores) -> np.ndarray:
    """Find the first weights [2] of ``GRID`` with the best mean NDCG@5; for two models."""
    return GRID[candidates.ndcg(GRID).mean(1).argmax()]


def search_exact(candidates: CandidateScores) -> np.ndarray:
    """Find the best of all weights [2], not negative and of sum 1; for two models.

    Where several are the best, this is the middle of the widest plateau.
    """
    # Where scores differ in their last digits only, blends round to ties that the curve does not have.
    grid = search_grid(candidates)
    exact = _search_line(candidates, *np.eye(2))
    return grid if candidates.mean_ndcg(grid) > exact.ndcg + TOLERANCE else exact.weights


def search_local(candidates: CandidateScores) -> np.ndarray:
    """Find good weights [M], not negative and of sum 1, of any number of models; there may be better ones.

    First it finds the best weights of each line through the points of a grid on which two models share. From
    the best of these, and of the points, a coordinate search goes on: a step takes the best share of one
    model, keeping the ratio of the others, and of all models the one with which most is gained.
    """
    models = len(candidates.scores)
    grid = _simplex_grid(models, lambda n: comb(models, 2) * comb(n + models - 3, n - 1) <= LINES)
    lines = list(_grid_lines(grid))
    # Closed before figures are printed.
    with tqdm(lines, desc="blend", disable=None, leave=False) as bar:
        optima = [_search_line(candidates, *line) for line in bar]
    # By rounding, scores may tie at a point of the grid and not where a line crosses it.
    optima += map(Optimum, grid, candidates.ndcg(grid).mean(1).tolist())
    starts = sorted(optima, key=attrgetter("ndcg"), reverse=True)[:STARTS]
    return max((_climb(candidates, start) for start in starts), key=attrgetter("ndcg")).weights


def search_bagged(candidates: CandidateScores) -> np.ndarray:
    """Find weights [M], of sum 1, that owe less to which queries valid happens to have.

    They are bagged (Breiman, 1996): the mean of the best weights of a grid over bootstrap resamples of the
    queries, drawn with a fixed seed; of a resample's weights that tie, their mean. Where valid is small, the
    best weights of its queries are often extreme, and those of others are not.
    """
    models, queries = candidates.scores.shape[:2]
    grid = _simplex_grid(models, lambda n: comb(n + models - 1, n) <= POINTS)  # [P, M]
    counts = np.random.default_rng(SEED).multinomial(queries, np.full(queries, 1 / queries), RESAMPLES)
    means = counts @ candidates.ndcg(grid).T / queries  # [RESAMPLES, P]
    best = means >= means.max(1, keepdims=True) - TOLERANCE
    return ((best @ grid) / best.sum(1, keepdims=True)).mean(0)


def _simplex_grid(models: int, fits: Callable[[int], bool]) -> np.ndarray:
    """Make all weights [P, M] that are multiples of 1 / n and of sum 1, for the largest n that fits."""
    steps = max(n for n in range(1, STEPS + 1) if n == 1 or fits(n))
    # The models' shares lie between bars put among the steps.
    places = steps + models - 1
    shares = [np.diff([-1, *bars, places]) - 1 for bars in combinations(range(places), models - 1)]
    return np.array(shares) / steps


def _grid_lines(grid: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Make the ends [M] of the lines through points of a grid [N, M] on which two models share."""
    for giver, taker in combinations(range(grid.shape[1]), 2):
        for start in grid[(grid[:, giver] > 0) & (grid[:, taker] == 0)]:
            end = start.copy()
            end[[giver, taker]] = end[[taker, giver]]
            yield start, end


def _climb(candidates: CandidateScores, best: Optimum) -> Optimum:
    """Search coordinate by coordinate for as long as something is gained."""
    while True:
        steps = []
        for alone in np.eye(len(best.weights))[best.weights < 1]:
            others = np.where(alone, 0, best.weights)
            steps.append(_search_line(candidates, alone, others / others.sum()))
        step = max(steps, key=attrgetter("ndcg"), default=best)
        if step.ndcg <= best.ndcg + TOLERANCE:
            return best
        best = step


def _search_line(candidates: CandidateScores, first: np.ndarray, second: np.ndarray) -> Optimum:
    """Find the best weights between two, [M] each."""
    ends = candidates.blend(np.stack([first, second]))
    best = Optimum(first, -np.inf)
    for plateau in Curve.between(*ends, candidates.gains).plateaus():
        # A plateau may be so narrow, or be a tie, that no blend in floating point is on it.
        if best.ndcg >= plateau.ndcg - TOLERANCE:
            break
        weights = plateau.middle * first + (1 - plateau.middle) * second
        if (ndcg := candidates.mean_ndcg(weights)) > best.ndcg:
            best = Optimum(weights, ndcg)
    return best


def cross_validate(
    search: Callable[[CandidateScores], np.ndarray], candidates: CandidateScores
) -> np.ndarray:
    """Score each query [Q] by NDCG@5 at the weights that ``search`` finds on the other folds of the queries.

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
