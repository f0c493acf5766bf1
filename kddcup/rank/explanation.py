"""What model1's scores are made of, word by word, to and from JSON."""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from kddcup.io.errors import UserError
from kddcup.io.files import read_json, write_json
from kddcup.rank.predictions import Predictions

MADE_BY = "cd model1; python validation.py --explain"
TOLERANCE = 1e-4
"""Of a score against the sum of its parts, relative; scores are float32."""


class WordScore(NamedTuple):
    """A word against an image: its weight, its best product with a label head, and which head, from 0."""

    weight: float
    score: float
    head: int


class Explanation(NamedTuple):
    """A query's words, and by product id what each contributes: the score is the sum of weight · score."""

    words: list[str]
    products: dict[int, list[WordScore]]


def explanation_path(predictions: str | os.PathLike) -> Path:
    """``NAME_words.json`` beside ``NAME.json``."""
    path = Path(predictions)
    return path.with_name(f"{path.stem}_words.json")


def write_explanations(path: str | os.PathLike, explanations: dict[str, Explanation]) -> None:
    """Write as ``{query_id: {"words": [word, …], "products": {product_id: [[weight, score, head], …]}}}``."""
    write_json(path, {query: explanation._asdict() for query, explanation in explanations.items()})


def read_explanations(path: str | os.PathLike, predictions: Predictions) -> dict[str, Explanation]:
    """Read what :func:`write_explanations` wrote for these predictions.

    Raises:
        UserError: it is absent, not of the form, or does not add up to the scores.
    """
    advice = f"make it with '{MADE_BY}'"
    content = read_json(path, advice)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not an object of query ids: {advice}")
    explanations = {}
    for query, candidates in predictions.items():
        try:
            explanations[query] = _parse(content[query], [product for product, _ in candidates])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(
                f"{path}, query {query}: expected its words, and [weight, score, head] of each "
                f"for every product: {advice}"
            ) from None
        for product, score in candidates:
            parts = explanations[query].products[product]
            total = sum(part.weight * part.score for part in parts)
            if not math.isclose(total, score, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                raise UserError(
                    f"{path}, query {query}: the words of product {product} add up to {total:.6g}, and its "
                    f"score is {score:.6g}: make both in one run of '{MADE_BY}'"
                )
    return explanations


def _parse(content: Any, products: list[int]) -> Explanation:
    """Take an explanation from JSON; only texts, and three numbers for each of them, get through."""
    words = [word for word in content["words"] if isinstance(word, str)]
    parts = {}
    for product in products:
        parts[product] = [
            WordScore(float(weight), float(score), int(head))
            for _, (weight, score, head) in zip(words, content["products"][str(product)], strict=True)
        ]
        if any(part.head < 0 for part in parts[product]):
            raise ValueError("heads are counted from 0")
    return Explanation(words, parts)
