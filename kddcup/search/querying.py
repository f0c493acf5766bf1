"""The command ``query``: a search, and its results as a table."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt

from kddcup.cli import parse_settings
from kddcup.io.errors import UserError, make_printable
from kddcup.search.index import Index
from kddcup.search.searcher import RERANK, Results, Searcher

HELP = """Search an index. Example:

    python -m kddcup.search query "red leather shoes" --index shop.index --top 20
"""


@dataclass
class QuerySettings:
    """Settings of a search.

    Args:
        text: the query, which may also be given before all flags.
        index: folder of the index.
        top: how many products are shown.
        first: the model that ranks the whole index; by default the one that did best on valid.
        rerank: how many of the best are then ranked by all models.
    """

    text: str
    index: str
    top: PositiveInt = 20
    first: str | None = None
    rerank: NonNegativeInt = RERANK


def show(searcher: Searcher, results: Results) -> None:
    """Print results."""
    for word in results.words:
        if not word.known:
            near = searcher.suggest(word.text)
            print(f"unknown: {word.text}" + (f" (perhaps {', '.join(near)})" if near else ""))
    if results.left_out:
        print(f"the last {results.left_out:,} words were ignored")
    for hit in results.hits:
        product = searcher.index.product(hit.product)
        words = ", ".join(f"{word.text} {word.weight:.2f}·{word.score:.2f}" for word in hit.words)
        print(make_printable(f"{hit.place:>3}  {product.id}  {hit.score:.4f}  {product.title}  [{words}]"))
    print(
        f"{len(results.hits)} of {searcher.index.count:,} products in {1000 * results.seconds:.0f} ms, "
        f"{results.looked_at:,} looked at"
    )


def query(args: list[str]) -> None:
    """Search an index."""
    settings = parse_settings(QuerySettings, HELP, args=args)
    torch.set_num_threads(1)  # the searcher has threads of its own
    searcher = Searcher(Index.open(Path(settings.index)), settings.first, settings.rerank)
    results = searcher.search(settings.text, settings.top)
    show(searcher, results)
    if results.reason:
        raise UserError(f"{settings.text!r} finds nothing ({results.reason}): try other words")
