"""Scores and answers of each query's candidates, to and from JSON; the submission as CSV."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kddcup.io.errors import UserError
from kddcup.io.files import format_csv, read_json, write_json, write_text
from kddcup.rank.metrics import K
from kddcup.table.products import ListedProduct
from kddcup.table.rows import INT64

ID_FORM = "a whole number from -2^63 to 2^63 - 1"
_DIGITS = re.compile("-?[0-9]{1,19}")
Predictions = dict[str, list[tuple[int, float]]]
"""The candidates by query id, in the table's order: (product id, score), best first, ties as in the table."""


def write_predictions(path: str | os.PathLike, predictions: Predictions) -> None:
    """Write as ``{query_id: [[product_id, score], …]}``."""
    write_json(path, predictions)


def read_predictions(path: str | os.PathLike, made_by: str) -> Predictions:
    """Read a predictions file of any origin; candidates that are not best first are put so.

    Raises:
        UserError: it is absent or is not of the form; ``made_by`` is the command named.
    """
    advice = f"make it with '{made_by}'"
    content = read_json(path, advice)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} is not an object of query ids: {advice}")
    predictions = {}
    for query, candidates in content.items():
        _check_text(query, path, advice)
        if not isinstance(candidates, list) or not all(map(_is_scored, candidates)) or not candidates:
            raise UserError(
                f"{path}, query {query}: expected a list of [product_id, score], an id being {ID_FORM}: "
                f"{advice}"
            )
        scored = [(parse_id(product), float(score)) for product, score in candidates]
        predictions[query] = sorted(scored, key=lambda candidate: -candidate[1])
        if len(dict(predictions[query])) != len(candidates):
            raise UserError(f"{path}, query {query}: a product is listed twice: {advice}")
    return predictions


def _is_scored(candidate: object) -> bool:
    return (
        isinstance(candidate, list)
        and len(candidate) == 2
        and parse_id(candidate[0]) is not None
        and type(candidate[1]) in (int, float)
        and abs(candidate[1]) <= sys.float_info.max
    )


def parse_id(product: object) -> int | None:
    """Take a product id as a number, or as text of one; None where it is no whole number of 64 bits."""
    # Other teams' files of this competition have their product ids as strings.
    if isinstance(product, str) and _DIGITS.fullmatch(product):
        product = int(product)
    return product if type(product) is int and INT64.min <= product <= INT64.max else None


def read_models(sources: Sequence[tuple[Path, str]]) -> list[Predictions]:
    """Read the predictions of several models for the same candidates.

    Args:
        sources: each model's file, and the command that makes it.

    Raises:
        UserError: a file cannot be read, or one lacks a query or a candidate that another has.
    """
    models = [read_predictions(path, made_by) for path, made_by in sources]
    paths = [path for path, _ in sources]
    for model, path in zip(models[1:], paths[1:], strict=True):
        _check_candidates(models[0], paths[0], model, path)
        _check_candidates(model, path, models[0], paths[0])
    return models


def _check_candidates(model: Predictions, path: Path, other: Predictions, other_path: Path) -> None:
    """Check that the first model has all candidates of the other."""
    for query, candidates in other.items():
        if query not in model:
            raise UserError(
                f"{path} lacks query {query}, which {other_path} has: "
                "make both with 'python validation.py' from one table"
            )
        missing = dict(candidates).keys() - dict(model[query]).keys()
        if missing:
            raise UserError(
                f"{path} lacks product {min(missing)} under query {query}, which {other_path} has: "
                "make both with 'python validation.py' from one table"
            )


def read_answers(path: str | os.PathLike) -> dict[str, list[int]]:
    """Read the relevant product ids by query id.

    Raises:
        UserError: the file is absent or is not ``{query_id: [product_id, …]}``.
    """
    advice = "it comes with the valid table ('python -m kddcup.sample --out FOLDER' makes both)"
    content = read_json(path, advice)
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(value, list) and value for value in content.values())
        or not all(
            type(product) is int and parse_id(product) is not None
            for value in content.values()
            for product in value
        )
    ):
        raise UserError(
            f"{path} is not {{query_id: [product_id, …]}} with an answer to each query, "
            f"an id being {ID_FORM}: {advice}"
        )
    for query in content:
        _check_text(query, path, advice)
    return content


def _check_text(query: str, path: str | os.PathLike, advice: str) -> None:
    # JSON can hold half of a pair of surrogates, which no file can.
    if query.encode(errors="ignore").decode() != query:
        raise UserError(f"{path} has a query id that is not text: {advice}")


def check_answered(
    predictions: Predictions, answers: Mapping[str, list[int]], sources: tuple[Path, Path]
) -> None:
    """Check that every query of the answers has predictions, and at least one answer is among the candidates.

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
    """Take the product ids alone, best first."""
    return {query: [product for product, _ in candidates] for query, candidates in predictions.items()}


def write_submission(
    path: str | os.PathLike, predictions: Predictions, products: Mapping[int, ListedProduct] | None = None
) -> None:
    """Write the five best of each query as the competition wants them.

    Args:
        path: of the CSV file.
        predictions: scores by query.
        products: as a shop knows them; they are named by the shop's ids instead of their numbers.
    """
    shop_ids = {number: product.shop_id for number, product in (products or {}).items()}
    rows = [["query-id", *(f"product{i}" for i in range(1, K + 1))]]
    for query, ranked in ranking(predictions).items():
        best = [shop_ids.get(product, product) for product in ranked[:K]]
        rows.append([query, *best, *[""] * (K - len(best))])
    write_text(path, format_csv(rows))
