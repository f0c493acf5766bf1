"""Blending two models' scores."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kddcup.errors import UserError
from kddcup.metrics import ndcg_per_query
from kddcup.predictions import Predictions, ranking, read_predictions

WEIGHTS = np.linspace(0, 1, 100)


def blend(model1: Predictions, model2: Predictions, weight: float) -> Predictions:
    """weight · model1 + (1 − weight) · model2; of equal scores the earlier in model1 stands first.

    Args:
        model1: scores by query.
        model2: scores of the same candidates.
        weight: of model1, from 0 to 1.
    """
    blended = {}
    for query, candidates in model1.items():
        others = dict(model2[query])
        scores = [(product, weight * score + (1 - weight) * others[product]) for product, score in candidates]
        blended[query] = sorted(scores, key=lambda candidate: -candidate[1])
    return blended


def best_weight(
    model1: Predictions, model2: Predictions, answers: Mapping[str, list[int]]
) -> tuple[float, float]:
    """The first of 100 weights from 0 to 1 with the best mean NDCG@5, and that."""
    judged = {query: model1[query] for query in answers}
    reached = [
        ndcg_per_query(ranking(blend(judged, model2, weight)), answers).mean() for weight in WEIGHTS.tolist()
    ]
    return float(WEIGHTS[np.argmax(reached)]), float(max(reached))


def read_pair(folder: Path, name: str) -> tuple[Predictions, Predictions]:
    """The predictions of both models, for the same candidates.

    Raises:
        UserError: a file cannot be read, or one lacks a query or a candidate that the other has.
    """
    paths = [folder / f"{name}_pred_model{number}.json" for number in (1, 2)]
    model1, model2 = (
        read_predictions(path, f"cd model{number}; python validation.py")
        for number, path in enumerate(paths, 1)
    )
    sides = ((model1, paths[0]), (model2, paths[1]))
    for (one, path), (other, source) in (sides, sides[::-1]):
        for query, candidates in other.items():
            if query not in one:
                raise UserError(f"{path} lacks query {query}, which {source} has: make both from one table")
            missing = dict(candidates).keys() - dict(one[query]).keys()
            if missing:
                raise UserError(
                    f"{path} lacks product {min(missing)} under query {query}, which {source} has: "
                    "make both from one table"
                )
    return model1, model2
