"""The mean NDCG@5 of a blend of two as an exact function of its weight."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kddcup.rank.metrics import K, discount

TOLERANCE = 1e-12
"""Means of NDCG@5 that are closer than this differ by rounding alone."""


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
        """Compute the curve of two models.

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
        """List all stretches of one figure: the highest first, and the widest of those that tie."""
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
    """Tell whether each hit stands before each candidate of its query, [hits, C]; of equals the earlier does.

    Args:
        scores: [Q, C].
        row: [hits] the query of each.
        place: [hits] where it is in its query.
    """
    hit, candidates = scores[row, place][:, None], scores[row]
    earlier = place[:, None] < np.arange(scores.shape[1])
    return (hit > candidates) | ((hit == candidates) & earlier)


def _dcg(misses_ahead: np.ndarray) -> np.ndarray:
    """Compute DCG@5 [N] of lists from the number of misses ahead of each of their hits, [N, hits]."""
    return discount(np.sort(misses_ahead, 1) + np.arange(misses_ahead.shape[1])).sum(1)
