"""Blending models' scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from kddcup.io.errors import UserError
from kddcup.rank.line_search import Curve
from kddcup.rank.metrics import IDEALS, K
from kddcup.rank.predictions import Predictions, read_predictions
from kddcup.rank.weight_search import WEIGHTS, Contenders, grid_weights

Normalization = Literal["none", "minmax", "zscore", "rank"]


def blend(model1: Predictions, model2: Predictions, weight: float) -> Predictions:
    """weight · model1 + (1 − weight) · model2; of equal scores the earlier in model1 stands first.

    Args:
        model1: scores by query.
        model2: scores of the same candidates.
        weight: of model1, from 0 to 1.
    """
    return weighted_sum((model1, model2), (weight, 1 - weight))


def weighted_sum(models: Sequence[Predictions], weights: Sequence[float]) -> Predictions:
    """The sum of weight · score over models; of equal scores the earlier in the first model stands first.

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
    """The scores of each query on a scale of its own; the order stays.

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
        normalized[query] = list(zip(products, _normalized(np.array(scores), how).tolist(), strict=True))
    return normalized


def _normalized(scores: np.ndarray, how: Normalization) -> np.ndarray:
    if scores.min() == scores.max():
        return np.zeros_like(scores)
    # By a power of two, so that nothing overflows and nothing is rounded.
    scores = np.ldexp(scores, -np.frexp(np.abs(scores).max())[1] - 1)
    if how == "minmax":
        return (scores - scores.min()) / (scores.max() - scores.min())
    if how == "zscore":
        return (scores - scores.mean()) / scores.std()
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = count.cumsum() - (count - 1) / 2
    return (rank[place] - 1) / (len(scores) - 1)


def best_weight(
    model1: Predictions, model2: Predictions, answers: Mapping[str, list[int]]
) -> tuple[float, float]:
    """The first of 100 weights of model1 from 0 to 1 with the best mean NDCG@5, and that.

    Args:
        model1: scores by query.
        model2: scores of the same candidates.
        answers: relevant product ids by query id; its queries are the ones judged.
    """
    reached = grid_ndcg(model1, model2, answers)
    return float(WEIGHTS[np.argmax(reached)]), float(max(reached))


def grid_ndcg(model1: Predictions, model2: Predictions, answers: Mapping[str, list[int]]) -> np.ndarray:
    """[100] the mean NDCG@5 at each of ``WEIGHTS``; arguments as in :func:`best_weight`."""
    return contenders((model1, model2), answers).ndcg(grid_weights()).mean(1)


def ndcg_curve(model1: Predictions, model2: Predictions, answers: Mapping[str, list[int]]) -> Curve:
    """The mean NDCG@5 at every weight of model1 from 0 to 1; arguments as in :func:`best_weight`."""
    judged = contenders((model1, model2), answers)
    return Curve.between(*judged.scores, judged.gains)


def contenders(models: Sequence[Predictions], answers: Mapping[str, list[int]]) -> Contenders:
    """The judged queries' candidates, in the first model's order.

    Args:
        models: each the scores of the same candidates by query.
        answers: relevant product ids by query id; its queries are the ones judged.
    """
    width = max(K, *(len(models[0][query]) for query in answers))
    # A query has at least as many places as NDCG looks at. Those past its candidates score lowest, at half of
    # what would overflow in a sum, and gain nothing.
    scores = np.full((len(models), len(answers), width), np.finfo(float).min / 2)
    gains = np.zeros((len(answers), width))
    for row, (query, relevant) in enumerate(answers.items()):
        wanted = set(relevant)
        products = [product for product, _ in models[0][query]]
        for model, predictions in enumerate(models):
            found = dict(predictions[query])
            scores[model, row, : len(products)] = [found[product] for product in products]
        gains[row, : len(products)] = [product in wanted for product in products]
        gains[row] /= IDEALS[min(K, len(wanted))]
    return Contenders.among(scores, gains)


def pair_sources(folder: Path, name: str) -> list[tuple[Path, str]]:
    """Model1's and model2's predictions of ``valid`` or ``test``: files, and commands that make them."""
    return [
        (folder / f"{name}_pred_model{number}.json", f"cd model{number}; python validation.py")
        for number in (1, 2)
    ]


def read_pair(folder: Path, name: str) -> tuple[Predictions, Predictions]:
    """Model1's and model2's predictions of ``valid`` or ``test``; errors as in :func:`read_models`."""
    model1, model2 = read_models(pair_sources(folder, name))
    return model1, model2


def read_models(sources: Sequence[tuple[Path, str]]) -> list[Predictions]:
    """The predictions of several models for the same candidates.

    Args:
        sources: each model's file, and the command that makes it.

    Raises:
        UserError: a file cannot be read, or one lacks a query or a candidate that another has.
    """
    models = [read_predictions(path, made_by) for path, made_by in sources]
    paths = [path for path, _ in sources]
    for model, path in zip(models[1:], paths[1:], strict=True):
        _check_complete(models[0], paths[0], model, path)
        _check_complete(model, path, models[0], paths[0])
    return models


def _check_complete(one: Predictions, path: Path, other: Predictions, source: Path) -> None:
    """See that ``one``, read from ``path``, has all candidates of ``other``, read from ``source``."""
    for query, candidates in other.items():
        if query not in one:
            raise UserError(
                f"{path} lacks query {query}, which {source} has: "
                "make both with 'python validation.py' from one table"
            )
        missing = dict(candidates).keys() - dict(one[query]).keys()
        if missing:
            raise UserError(
                f"{path} lacks product {min(missing)} under query {query}, which {source} has: "
                "make both with 'python validation.py' from one table"
            )
