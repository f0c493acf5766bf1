"""NDCG@5, as the competition computed it, and beside it recall, mean reciprocal rank and intervals."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import numpy as np

K = 5
DRAWN_AT_ONCE = 1 << 20
"""Numbers of the bootstrap that are in memory at once."""
_DISCOUNTS = np.append(1 / np.log2(np.arange(2, K + 2)), 0)


def discount(ranks: np.ndarray) -> np.ndarray:
    """Look up what a hit at each rank, from 0, adds to DCG@5: 1 / log2(rank + 2), and 0 past the fifth."""
    return _DISCOUNTS[np.minimum(ranks, K)]


def ideal_dcg(answers: int) -> float:
    """Compute DCG@5 of a list that begins with so many hits."""
    return float(discount(np.arange(answers)).sum())


def ndcg(ranked: Sequence[int], answers: Collection[int]) -> float:
    """Compute NDCG@5 of one query; gains are 0 or 1 (Järvelin and Kekäläinen, 2002).

    Args:
        ranked: product ids, best first.
        answers: the relevant product ids, at least one; those not in ``ranked`` count in the ideal.
    """
    hits = np.array([product in answers for product in ranked[:K]], bool)
    return float(discount(np.flatnonzero(hits)).sum() / ideal_dcg(len(set(answers))))


def recall(ranked: Sequence[int], answers: Collection[int], k: int) -> float:
    """Compute the share of one query's answers that are among the first k; arguments as of :func:`ndcg`."""
    wanted = set(answers)
    return len(wanted.intersection(ranked[:k])) / len(wanted)


def reciprocal_rank(ranked: Sequence[int], answers: Collection[int]) -> float:
    """Compute 1 / rank of the first answer, 0 where there is none (Voorhees, 1999); arguments as of ndcg."""
    return next((1 / rank for rank, product in enumerate(ranked, 1) if product in answers), 0.0)


NDCG = f"NDCG@{K}"
METRICS: dict[str, Callable[[Sequence[int], Collection[int]], float]] = {
    NDCG: ndcg,
    **{f"recall@{k}": partial(recall, k=k) for k in (1, 5, 10)},
    "MRR": reciprocal_rank,
}
"""Of one query, by the names that are shown; the first is what models are chosen by."""


def measure(
    rankings: Mapping[str, Sequence[int]], answers: Mapping[str, Collection[int]]
) -> dict[str, np.ndarray]:
    """Compute each of :data:`METRICS` for each query; arguments and order as of :func:`ndcg_per_query`.

    Returns:
        [queries] by the metric's name.
    """
    wanted = {query: set(relevant) for query, relevant in answers.items()}
    return {
        name: np.array([metric(rankings[query], relevant) for query, relevant in wanted.items()])
        for name, metric in METRICS.items()
    }


def ndcg_per_query(
    rankings: Mapping[str, Sequence[int]], answers: Mapping[str, Collection[int]]
) -> np.ndarray:
    """Compute NDCG@5 [queries] of each query of ``answers``, in their order.

    Args:
        rankings: product ids by query id, best first; has every query of ``answers``.
        answers: relevant product ids by query id.
    """
    return np.array([ndcg(rankings[query], set(relevant)) for query, relevant in answers.items()])


def random_ndcg(candidates: Mapping[str, Collection[int]], answers: Mapping[str, Collection[int]]) -> float:
    """Compute the expected mean NDCG@5 of a uniformly random order, exactly.

    Each of the n candidates is as likely as the others at each rank, so that a rank gains hits/n · discount.
    """
    expected = []
    for query, relevant in answers.items():
        pool, wanted = set(candidates[query]), set(relevant)
        hits = len(pool & wanted)
        expected.append(hits / len(pool) * ideal_dcg(len(pool)) / ideal_dcg(len(wanted)))
    return float(np.mean(expected))


def bootstrap_interval(per_query: np.ndarray, seed: int = 0, draws: int = 10_000) -> tuple[float, float]:
    """Draw the 95 % percentile interval of the mean over queries drawn with replacement (Efron, 1979)."""
    rng, count = np.random.default_rng(seed), len(per_query)
    blocks = np.array_split(np.arange(draws), -(-draws * count // DRAWN_AT_ONCE))
    means = [per_query[rng.integers(count, size=(len(block), count))].mean(1) for block in blocks]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def describe_others(rankings: Mapping[str, Sequence[int]], answers: Mapping[str, Collection[int]]) -> str:
    """Describe recall and mean reciprocal rank, each with its 95 % bootstrap interval, in a line."""
    others = list(measure(rankings, answers).items())[1:]
    intervals = ((name, figures.mean(), *bootstrap_interval(figures)) for name, figures in others)
    return "  ".join(f"{name} {mean:.3f} [{low:.3f}, {high:.3f}]" for name, mean, low, high in intervals)


def with_interval(per_query: np.ndarray) -> str:
    """Format the mean and its 95 % bootstrap interval."""
    low, high = bootstrap_interval(per_query)
    return f"{per_query.mean():.6f}  [{low:.4f}, {high:.4f}]"
