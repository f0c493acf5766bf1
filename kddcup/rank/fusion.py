"""Several models' scores as one: normalized within each query, then summed with weights."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from kddcup.rank.predictions import Predictions

Normalization = Literal["none", "minmax", "zscore", "rank"]


def weighted_sum(models: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """Sum weight · score over models; of equal sums the one that is earlier in the first model stands first.

    Args:
        models: each the scores of the same candidates by query.
        weights: one for each model.
    """
    blended = {}
    for query, candidates in models[0].items():
        total = {product: weights[0] * score for product, score in candidates}
        for weight, model in zip(weights[1:], models[1:], strict=True):
            for product, score in model[query]:
                total[product] += weight * score
        blended[query] = sorted(total.items(), key=lambda candidate: -candidate[1])
    return blended


def normalize(predictions: Predictions, how: Normalization) -> Predictions:
    """Put the scores of each query on a scale of its own; the order stays.

    With s a score, and over the n candidates of its query:

    - ``none``: s
    - ``minmax``: (s − min) / (max − min)
    - ``zscore``: (s − mean) / σ, with σ² the mean of (s − mean)²
    - ``rank``: (r − 1) / (n − 1), with r the rank from 1 for the lowest score to n for the highest, and for
      equal scores the mean of their ranks

    Where all scores of a query are equal they become 0, unless ``none``.

    Args:
        predictions: scores by query.
        how: one of the four.
    """
    if how == "none":
        return predictions
    normalized = {}
    for query, candidates in predictions.items():
        products, scores = zip(*candidates, strict=True)
        normalized[query] = list(zip(products, _normalize(np.array(scores), how).tolist(), strict=True))
    return normalized


def _normalize(scores: np.ndarray, how: Normalization) -> np.ndarray:
    from scipy import stats  # takes longer to import than a blend of raw scores takes

    if scores.min() == scores.max():
        return np.zeros_like(scores)
    # By a power of two, so that nothing overflows and nothing is rounded.
    scores = np.ldexp(scores, -np.frexp(np.abs(scores).max())[1] - 1)
    if how == "zscore":
        return stats.zscore(scores)
    if how == "rank":
        return (stats.rankdata(scores) - 1) / (len(scores) - 1)
    return (scores - scores.min()) / (scores.max() - scores.min())
