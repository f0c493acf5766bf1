"""The command ``judge``: how well a search does over a whole catalogue, since thirty candidates flatter."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from kddcup.cli import parse_settings
from kddcup.io.errors import UserError
from kddcup.pictures.pairs import RELEVANCES
from kddcup.pictures.spreadsheet import Spreadsheet
from kddcup.rank.metrics import bootstrap_interval, measure
from kddcup.search.index import Index
from kddcup.search.models import WordModel
from kddcup.search.searcher import Searcher, SearchSettings

HELP = """Judge a search by queries whose relevant products are known. Example:

    python -m kddcup.search judge --index shop.index --queries queries.csv

Prints NDCG@5, recall and the mean reciprocal rank over all products of the index, with 95 % bootstrap
intervals over queries: of the search, and of each model that can rank the whole index, alone.
"""
RANKS = 1000
"""The products of a query that are looked through; the reciprocal of a rank beyond them counts as 0."""


@dataclass
class JudgeSettings(SearchSettings):
    """Settings of the judgement.

    Args:
        queries: a table of the columns query and product_id, and optionally relevance, 0 or 1; as CSV, TSV
            or JSON lines. Products that are not listed under a query are not relevant to it.
    """

    queries: str = ""


def read_relevant(path: Path, index: Index) -> dict[str, set[str]]:
    """Read the ids of the relevant products of each query; says which are left out.

    Raises:
        UserError: the table cannot be read, or lists no product of the index.
    """
    sheet = Spreadsheet(path, ("query", "product_id", "relevance"))
    lacking = [name for name in ("query", "product_id") if name not in sheet.columns]
    if lacking:
        raise UserError(f"{path}, line 1: there is no column {lacking[0]}; expected query and product_id")
    listed: dict[str, set[str]] = {}
    for line, fields in sheet.records():
        if fields["relevance"] not in RELEVANCES or not fields["query"]:
            sheet.misfits.add(line, "it has no query, or a relevance that is not 0 or 1")
        elif RELEVANCES[fields["relevance"]]:
            listed.setdefault(fields["query"], set()).add(fields["product_id"])
    sheet.misfits.check()
    present = {id_ for ids in listed.values() for id_ in ids if index.find(id_) is not None}
    relevant = {query: ids & present for query, ids in listed.items() if ids & present}
    if not relevant:
        raise UserError(f"{path} lists no product of {index.folder}: name a table of its products")
    absent = len({id_ for ids in listed.values() for id_ in ids} - present)
    print(
        f"{len(relevant):,} queries over {index.count:,} products"
        + (f"; left out: {absent:,} products that the index has not" if absent else "")
        + (f", {len(listed) - len(relevant):,} queries of them alone" if len(relevant) < len(listed) else "")
    )
    return relevant


def rank_all(searcher: Searcher, queries: list[str]) -> dict[str, list[str]]:
    """The ids of the best products of each query."""
    return {
        query: [searcher.index.product(hit.product).id for hit in searcher.search(query, RANKS).hits]
        for query in tqdm(queries, desc=searcher.first.name, disable=None)
    }


def judge(args: list[str]) -> None:
    """Judge an index."""
    settings = parse_settings(JudgeSettings, HELP, args=args)
    torch.set_num_threads(1)  # the searcher has threads of its own
    searcher = settings.open()
    index = searcher.index
    relevant = read_relevant(Path(settings.queries), index)
    searchers = {f"{searcher.first.name}, then {settings.rerank} by all": searcher} if settings.rerank else {}
    for name in searcher.settings.names:
        if isinstance(searcher.models.get(name), WordModel):
            searchers[f"{name} alone"] = Searcher(index, name, 0, settings.memory * 10**6)
    width = max(map(len, searchers))
    for name, each in searchers.items():
        figures = measure(rank_all(each, list(relevant)), relevant)
        shown = []
        for metric, per_query in figures.items():
            low, high = bootstrap_interval(per_query)
            shown.append(f"{metric} {per_query.mean():.3f} [{low:.3f}, {high:.3f}]")
        print(f"  {name:<{width}}  {'  '.join(shown)}")
