"""Predictions and answers to and from TREC's formats.

A TREC run has lines of ``query Q0 product rank score tag``, qrels of ``query 0 product relevance``. Examples:

    python -m kddcup.predictions to_run external_resources/valid_pred_model1.json model1.run
    python -m kddcup.predictions from_run theirs.run external_resources/valid_pred_theirs.json
    python -m kddcup.predictions to_qrels data/valid/valid_answer.json valid.qrels
    python -m kddcup.predictions from_qrels valid.qrels data/valid/valid_answer.json

To a run and back, predictions stay as they are: the scores to the last bit, and the order of those that tie,
which the rank column keeps. trec_eval and what is built on it (pytrec_eval, ir-measures) do not read that
column: they order by score, and ties by descending product id as text. So where scores tie among the best,
their NDCG@5 can differ from the one that this project and the competition compute.
"""

import argparse
import math
import re
from collections.abc import Iterator
from pathlib import Path

from kddcup.cli import Parser
from kddcup.io.errors import UserError
from kddcup.io.files import write_json, write_text
from kddcup.rank.predictions import ID_FORM, parse_id, read_answers, read_predictions, write_predictions

_RUN_LINE = re.compile(r"\s*(\S+)\s+\S+\s+(\S+)\s+(\S+)\s+([-+.0-9eE]+)\s+\S+\s*")
_RUN_FORM = f"query Q0 product rank score tag, product and rank being {ID_FORM}"
_QRELS_LINE = re.compile(r"\s*(\S+)\s+\S+\s+(\S+)\s+(\S+)\s*")
_QRELS_FORM = f"query 0 product relevance, product and relevance being {ID_FORM}"


def to_run(source: str, target: str) -> None:
    """Write predictions as a TREC run; its tag is the name of their file.

    Args:
        source: predictions, in JSON.
        target: the run.
    """
    tag = "_".join(Path(source).stem.split())
    lines = []
    for query, candidates in read_predictions(source, "python validation.py").items():
        _check_no_blank(query, source)
        for rank, (product, score) in enumerate(candidates, 1):
            lines.append(f"{query} Q0 {product} {rank} {score!r} {tag}\n")
    write_text(target, "".join(lines))


def from_run(source: str, target: str) -> None:
    """Write a TREC run as predictions: by score, as trec_eval orders, and where it ties by rank.

    Args:
        source: the run; product ids are whole numbers.
        target: predictions, in JSON.
    """
    run: dict[str, dict[int, tuple[float, int]]] = {}
    for place, query, product, rank, score in _read_lines(source, _RUN_LINE, _RUN_FORM):
        try:
            value = float(score)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(f"{place}: {score} is not a finite score: fix the line")
        candidates = run.setdefault(query, {})
        if product in candidates:
            raise UserError(f"{place}: product {product} is listed twice under query {query}: drop one")
        candidates[product] = (-value, rank)
    write_predictions(
        target,
        {
            query: [(product, -candidates[product][0]) for product in sorted(candidates, key=candidates.get)]
            for query, candidates in run.items()
        },
    )


def to_qrels(source: str, target: str) -> None:
    """Write answers as TREC qrels, of relevance 1.

    Args:
        source: answers, in JSON.
        target: the qrels.
    """
    lines = []
    for query, relevant in read_answers(source).items():
        _check_no_blank(query, source)
        lines.extend(f"{query} 0 {product} 1\n" for product in dict.fromkeys(relevant))
    write_text(target, "".join(lines))


def from_qrels(source: str, target: str) -> None:
    """Write TREC qrels as answers: products of a relevance above 0; queries without any are left out.

    Args:
        source: the qrels; product ids are whole numbers.
        target: answers, in JSON.
    """
    qrels: dict[str, dict[int, bool]] = {}
    for place, query, product, relevance in _read_lines(source, _QRELS_LINE, _QRELS_FORM):
        products = qrels.setdefault(query, {})
        if product in products:
            raise UserError(f"{place}: product {product} is listed twice under query {query}: drop one")
        products[product] = relevance > 0
    answers = {
        query: [product for product in products if products[product]] for query, products in qrels.items()
    }
    answered = {query: relevant for query, relevant in answers.items() if relevant}
    if not answered:
        raise UserError(f"{source} has no product of a relevance above 0: nothing would be an answer")
    write_json(target, answered)
    if len(answered) < len(answers):
        print(f"{source}: {len(answers) - len(answered)} queries have no relevant product and are left out")


def _check_no_blank(query: str, source: str) -> None:
    if query.split() != [query]:
        raise UserError(
            f"{source}: query id {query!r} is empty or has a blank, and TREC's formats cannot hold it"
        )


def _read_lines(path: str, line: re.Pattern[str], form: str) -> Iterator[tuple]:
    """Read each line: its place, for messages, the query, the product, a number and further texts.

    Blank lines are passed over.

    Raises:
        UserError: the file is not UTF-8, has no line, or one that is not of the ``form``.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason}): expected lines of {form}") from None
    if not text.strip():
        raise UserError(f"{path} is empty: expected lines of {form}")
    for count, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        place = f"{path}, line {count}"
        match = line.fullmatch(content)
        query, product, number, *others = match.groups() if match else (None,) * 3
        product, number = parse_id(product), parse_id(number)
        if product is None or number is None:
            raise UserError(f"{place}: expected {form}")
        yield place, query, product, number, *others


COMMANDS = {function.__name__: function for function in (to_run, from_run, to_qrels, from_qrels)}


def main() -> None:
    """Convert a file."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS, help="what is written, or read")
    parser.add_argument("source", help="the file to read")
    parser.add_argument("target", help="the file to write")
    given = parser.parse_args()
    COMMANDS[given.command](given.source, given.target)
