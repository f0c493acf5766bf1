"""Scores of each query's candidates, to and from JSON, and the submission as CSV."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from kddcup.errors import UserError
from kddcup.files import csv_text, read_json, write_json, write_text
from kddcup.metrics import K

Predictions = dict[str, list[tuple[int, float]]]
"""By query id, in the table's order: (product id, score), best first, ties in the order of the table."""


def write_predictions(path: str | os.PathLike, predictions: Predictions) -> None:
    """Write as ``{query_id: [[product_id, score], …]}``."""
    write_json(path, predictions)


def read_predictions(path: str | os.PathLike, made_by: str) -> Predictions:
    """Read a predictions file of any origin.

    Raises:
        UserError: it is absent or is not of the form; ``made_by`` is the command named.
    """
    advice = f"make it with '{made_by}'"
    content = read_json(path, advice)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} is no object of query ids: {advice}")
    predictions = {}
    for query, candidates in content.items():
        if not isinstance(candidates, list) or not all(map(_is_scored, candidates)) or not candidates:
            raise UserError(f"{path}, query {query}: expected a list of [product_id, score]: {advice}")
        predictions[query] = [(int(product), float(score)) for product, score in candidates]
        if len(dict(predictions[query])) != len(candidates):
            raise UserError(f"{path}, query {query}: a product is listed twice: {advice}")
    return predictions


def _is_scored(candidate: object) -> bool:
    # Other teams' files of this competition have their product ids as strings.
    return (
        isinstance(candidate, list)
        and len(candidate) == 2
        and (type(candidate[0]) is int or (isinstance(candidate[0], str) and candidate[0].isdecimal()))
        and type(candidate[1]) in (int, float)
        and abs(candidate[1]) <= sys.float_info.max
    )


def read_answers(path: str | os.PathLike) -> dict[str, list[int]]:
    """The relevant product ids by query id.

    Raises:
        UserError: the file is absent or is not ``{query_id: [product_id, …]}``.
    """
    advice = "it comes with the valid table ('python -m kddcup.sample --out FOLDER' makes both)"
    content = read_json(path, advice)
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(value, list) and value for value in content.values())
        or not all(type(product) is int for value in content.values() for product in value)
    ):
        raise UserError(f"{path} is not {{query_id: [product_id, …]}} with an answer to each query: {advice}")
    return content


def check_answered(
    predictions: Predictions, answers: Mapping[str, list[int]], sources: tuple[Path, Path]
) -> None:
    """See that every query of the answers has predictions, and that not all answers are strangers to them.

    Raises:
        UserError: it is not so; ``sources`` are the files of both.
    """
    missing = [query for query in answers if query not in predictions]
    if missing:
        raise UserError(
            f"{sources[0]} lacks query {missing[0]} of {sources[1]} (and {len(missing) - 1} more): "
            "make both from one table"
        )
    if not any(
        product in relevant for query, relevant in answers.items() for product, _ in predictions[query]
    ):
        raise UserError(
            f"{sources[1]} has no answer that is among the candidates of {sources[0]}: "
            "make both from one table"
        )


def ranking(predictions: Predictions) -> dict[str, list[int]]:
    """The product ids alone, best first."""
    return {query: [product for product, _ in candidates] for query, candidates in predictions.items()}


def write_submission(path: str | os.PathLike, predictions: Predictions) -> None:
    """Write the five best of each query as the competition wants them."""
    rows = [["query-id", *(f"product{i}" for i in range(1, K + 1))]]
    for query, products in ranking(predictions).items():
        best = products[:K]
        rows.append([query, *best, *[""] * (K - len(best))])
    write_text(path, csv_text(rows))
