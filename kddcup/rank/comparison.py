"""Compare two rankings of the same candidates: which is better, and is that more than chance? Example:

    python -m kddcup.compare valid_pred_model1.json valid_pred_model2.json --answers valid_answer.json

Prints each metric's mean under both, the difference B - A with its 95 % interval (paired bootstrap over
queries), and p, the share of random exchanges of A and B within queries that make as large a difference in
either direction (randomisation test; Smucker, Allan and Carterette, 2007). Then the queries whose NDCG@5
differs most, with their text where --table names the table of the candidates.
"""

import argparse
from collections.abc import Collection
from pathlib import Path

import numpy as np

from kddcup.cli import Parser
from kddcup.rank.metrics import NDCG, bootstrap_interval, measure
from kddcup.rank.predictions import check_answered, ranking, read_answers, read_models
from kddcup.table.table import Table

EXCHANGES = 10_000
"""Random exchanges; all there are of few queries."""
EXCHANGES_AT_ONCE = 1000
SHOWN = 10
"""Of the queries that differ most."""
MADE_BY = "python validation.py"


def randomisation_test(differences: np.ndarray) -> float:
    """Compute the two-sided p of a mean difference under random signs, which exchange both sides of a query.

    Args:
        differences: [queries].
    """
    from scipy.stats import permutation_test

    zeros = np.zeros_like(differences)
    found = permutation_test(
        (differences, zeros),
        lambda first, second, axis: (first - second).mean(axis),
        permutation_type="samples",
        n_resamples=EXCHANGES,
        batch=EXCHANGES_AT_ONCE,
        rng=0,
    )
    return float(found.pvalue)


def compare(first: Path, second: Path, answers_path: Path, table: Path | None) -> str:
    """Compare two files of predictions.

    Args:
        first: A.
        second: B.
        answers_path: relevant product ids by query.
        table: of the candidates, for the text of queries.

    Raises:
        UserError: a file cannot be read, or they do not fit together.
    """
    models = read_models([(first, MADE_BY), (second, MADE_BY)])
    answers = read_answers(answers_path)
    check_answered(models[0], answers, (first, answers_path))
    before, after = (measure(ranking(model), answers) for model in models)
    width = max(len(name) for name in before)
    lines = [f"A {first}", f"B {second}", f"{len(answers)} queries"]
    lines.append(f"{'':<{width}}         A         B     B - A  95 % interval           p")
    for name, old in before.items():
        new = after[name]
        low, high = bootstrap_interval(new - old)
        lines.append(
            f"{name:<{width}}  {old.mean():8.6f}  {new.mean():8.6f}  {new.mean() - old.mean():+.5f}  "
            f"[{low:+.4f}, {high:+.4f}]  {randomisation_test(new - old):.4f}"
        )
    rows = zip(answers, before[NDCG], after[NDCG], strict=True)
    largest = sorted((row for row in rows if row[1] != row[2]), key=lambda row: -abs(row[2] - row[1]))[:SHOWN]
    texts = _read_texts(table, {query for query, _, _ in largest}) if table else {}
    lines.append(f"queries that differ most in {NDCG}" if largest else f"no query differs in {NDCG}")
    for query, old, new in largest:
        text = texts.get(query, "")
        lines.append(f"  {new - old:+.4f}  A {old:.4f}  B {new:.4f}  query {query}  {text}".rstrip())
    return "\n".join(lines)


def _read_texts(table: Path, queries: Collection[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for row in Table(table).rows(f"read {table.name}"):
        if str(row.query_id) in queries:
            texts.setdefault(str(row.query_id), row.query)
    return texts


def main() -> None:
    """Compare the files of the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", help="predictions A")
    parser.add_argument("second", help="predictions B, of the same candidates")
    parser.add_argument("--answers", required=True, help="relevant product ids by query, as DATA/valid has")
    parser.add_argument("--table", help="the table of the candidates; shows the text of queries")
    given = parser.parse_args()
    table = Path(given.table) if given.table else None
    print(compare(Path(given.first), Path(given.second), Path(given.answers), table))
