"""Blending models' scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kddcup.rank.fusion import weighted_sum
from kddcup.rank.line_search import Curve
from kddcup.rank.metrics import IDEALS, K
from kddcup.rank.predictions import Predictions, read_models
from kddcup.rank.weight_search import WEIGHTS, Contenders, grid_weights


def blend(model1: Predictions, model2: Predictions, weight: float) -> Predictions:
    """weight · model1 + (1 − weight) · model2; of equal scores the earlier in model1 stands first.

    Args:
        model1: scores by query.
        model2: scores of the same candidates.
        weight: of model1, from 0 to 1.
    """
    return weighted_sum((model1, model2), (weight, 1 - weight))


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
