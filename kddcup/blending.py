"""Blending two models' scores."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kddcup.errors import UserError
from kddcup.metrics import DISCOUNTS, IDEALS, K
from kddcup.predictions import Predictions, read_predictions

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
    """The first of 100 weights of model1 from 0 to 1 with the best mean NDCG@5, and that.

    Args:
        model1: scores by query.
        model2: scores of the same candidates.
        answers: relevant product ids by query id; its queries are the ones judged.
    """
    scores1, scores2, gains = _aligned(model1, model2, answers)
    reached = []
    for weight in WEIGHTS:
        blended = weight * scores1 + (1 - weight) * scores2  # [Q, C]
        found = np.zeros(len(blended))
        rows = np.arange(len(blended))
        for discount in DISCOUNTS:
            best = blended.argmax(1)  # of equals the first, which is the earlier in model1
            found += discount * gains[rows, best]
            blended[rows, best] = -np.inf
        reached.append(found.mean())
    return float(WEIGHTS[np.argmax(reached)]), float(max(reached))


def _aligned(
    model1: Predictions, model2: Predictions, answers: Mapping[str, list[int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both models' scores [Q, C] of each query's candidates in model1's order, and what a hit gains there.

    A query has at least as many places as NDCG looks at; places past its candidates score lowest and gain
    nothing.
    """
    width = max(K, *(len(model1[query]) for query in answers))
    scores1, scores2 = np.full((2, len(answers), width), np.finfo(float).min)
    gains = np.zeros((len(answers), width))
    for row, (query, relevant) in enumerate(answers.items()):
        wanted, others = set(relevant), dict(model2[query])
        products = [product for product, _ in model1[query]]
        scores1[row, : len(products)] = [score for _, score in model1[query]]
        scores2[row, : len(products)] = [others[product] for product in products]
        gains[row, : len(products)] = [product in wanted for product in products]
        gains[row] /= IDEALS[min(K, len(wanted))]
    return scores1, scores2, gains


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
    return model1, model2
