"""The weights of a blend with the best mean NDCG@5, on a grid or exactly, and what they are worth."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from kddcup.rank.line_search import TOLERANCE, Curve
from kddcup.rank.metrics import DISCOUNTS, K

WEIGHTS = np.linspace(0, 1, 100)
"""[100] the published grid of model1's weight."""
PAIRS = 1 << 22
"""Pairs of candidates that are compared at once."""
RANDOM_STARTS = 4
FOLDS = 5
SEED = 2020


@dataclass(frozen=True)
class Contenders:
    """M models' scores of the candidates of Q queries that can be among the best five.

    Args:
        scores: [M, Q, C] a query's candidates in the order in which they stand where their scores tie.
        gains: [Q, C] what a candidate at rank 1 adds to its query's NDCG@5; 0 where it is not relevant.
    """

    scores: np.ndarray
    gains: np.ndarray

    @classmethod
    def among(cls, scores: np.ndarray, gains: np.ndarray) -> "Contenders":
        """Those of all candidates that are among the best five at some weights, in their order.

        One that five earlier ones equal or surpass in all scores is not: rounding is monotonic, so that they
        equal or surpass it in every blend too.
        """
        earlier = np.tri(scores.shape[2], k=-1, dtype=bool)  # [C, the earlier]
        out = np.empty(gains.shape, bool)
        # As many queries at a time as keep the pairs of their candidates small.
        for some in np.array_split(np.arange(len(gains)), -(-gains.size * gains.shape[1] // PAIRS)):
            surpassed = np.broadcast_to(earlier, (len(some), *earlier.shape))
            for model in scores[:, some]:
                surpassed = surpassed & (model[:, None] >= model[:, :, None])
            out[some] = surpassed.sum(2) >= K
        kept = np.argsort(out, 1, kind="stable")[:, : (~out).sum(1).max()]
        return cls(np.take_along_axis(scores, kept[None], 2), np.take_along_axis(gains, kept, 1))

    def take(self, queries: np.ndarray) -> "Contenders":
        """Those of the queries at these positions."""
        return Contenders(self.scores[:, queries], self.gains[queries])

    def blended(self, weights: np.ndarray) -> np.ndarray:
        """[B, Q, C] the blends' scores at B weights of each model, [B, M]."""
        # Model after model, as blending.blend does, so that both round alike.
        total = weights[:, 0, None, None] * self.scores[0]
        for model in range(1, len(self.scores)):
            total += weights[:, model, None, None] * self.scores[model]
        return total

    def ndcg(self, weights: np.ndarray) -> np.ndarray:
        """[B, Q] NDCG@5 of the blends at B weights of each model, [B, M]."""
        reached = []
        for some in np.array_split(weights, -(-len(weights) // 10)):  # as many as fit into a cache
            blended = self.blended(some)
            found = np.zeros(blended.shape[:2])
            for discount in DISCOUNTS:
                best = blended.argmax(2, keepdims=True)  # of equals the first
                found += discount * np.take_along_axis(self.gains[None], best, 2)[:, :, 0]
                np.put_along_axis(blended, best, -np.inf, 2)
            reached.append(found)
        return np.concatenate(reached)

    def mean_ndcg(self, weights: np.ndarray) -> float:
        """The mean NDCG@5 of the blend at a weight of each model, [M]."""
        return float(self.ndcg(weights[None]).mean())


def grid_weights() -> np.ndarray:
    """[100, 2] the grid as a weight of each of two models."""
    return np.stack([WEIGHTS, 1 - WEIGHTS], 1)


def search_grid(contenders: Contenders) -> np.ndarray:
    """[2] the first weights of the grid with the best mean NDCG@5; for two models."""
    return grid_weights()[contenders.ndcg(grid_weights()).mean(1).argmax()]


def search_exact(contenders: Contenders) -> np.ndarray:
    """[M] weights, not negative and of sum 1, with the best mean NDCG@5.

    For two models they are the global optimum, and of equal ones the middle of the widest plateau. For more
    they are the best local optimum of a coordinate search from each model alone, from equal weights and from
    ``RANDOM_STARTS`` random ones. A step takes the best share of one model, the ratio of the others kept, and
    of the models that one with which most is gained. So no pair of models alone does better.
    """
    models = len(contenders.scores)
    if models == 2:
        return _search_pair(contenders)
    random = np.random.default_rng(SEED).dirichlet(np.ones(models), RANDOM_STARTS)
    starts = np.vstack([np.eye(models), np.full(models, 1 / models), random])
    ends = [_climb(contenders, start) for start in tqdm(starts, desc="blend", disable=None, leave=False)]
    return max(ends, key=contenders.mean_ndcg)


def _search_pair(contenders: Contenders) -> np.ndarray:
    # Where scores differ in their last digits only, blends round to ties that the curve does not have.
    grid = search_grid(contenders)
    exact = _search_line(contenders, np.array([0.0, 1.0]), 0)
    return grid if contenders.mean_ndcg(grid) > contenders.mean_ndcg(exact) + TOLERANCE else exact


def _climb(contenders: Contenders, weights: np.ndarray) -> np.ndarray:
    """Coordinate search from ``weights``."""
    reached = contenders.mean_ndcg(weights)
    while True:
        steps = [_search_line(contenders, weights, model) for model in np.flatnonzero(weights < 1)]
        best = max(steps, key=contenders.mean_ndcg, default=weights)
        if contenders.mean_ndcg(best) <= reached + TOLERANCE:
            return weights
        weights, reached = best, contenders.mean_ndcg(best)


def _search_line(contenders: Contenders, weights: np.ndarray, model: int) -> np.ndarray:
    """The best weights of those that change the share of one model and keep the ratio of the others."""
    alone = np.eye(len(weights))[model]
    others = np.where(alone, 0, weights)
    others /= others.sum()
    curve = Curve.between(contenders.scores[model], contenders.blended(others[None])[0], contenders.gains)
    best, reached = weights, -np.inf
    for plateau in curve.plateaus():
        # A plateau may be so narrow, or be a tie, that no blend in floating point is on it.
        if reached >= plateau.ndcg - TOLERANCE:
            break
        found = plateau.middle * alone + (1 - plateau.middle) * others
        figure = contenders.mean_ndcg(found)
        if figure > reached:
            best, reached = found, figure
    return best


def cross_validated(search: Callable[[Contenders], np.ndarray], contenders: Contenders) -> np.ndarray:
    """[Q] NDCG@5 of each query at the weights that ``search`` finds on the other folds of the queries.

    The folds, ``FOLDS`` or as many as there are queries, are drawn with a fixed seed; their sizes differ by
    one at most.

    Args:
        search: gives the weights [M] of contenders.
        contenders: of two queries at least.
    """
    queries = len(contenders.gains)
    found = np.empty(queries)
    drawn = np.random.default_rng(SEED).permutation(queries)
    for held_out in np.array_split(drawn, min(FOLDS, queries)):
        rest = np.setdiff1d(drawn, held_out)
        found[held_out] = contenders.take(held_out).ndcg(search(contenders.take(rest))[None])[0]
    return found
