"""The command ``query``: a search, and its results as a table."""

from dataclasses import dataclass

import torch
from jsonargparse.typing import PositiveInt

from kddcup.cli import parse_settings
from kddcup.io.errors import UserError, make_printable
from kddcup.search.searcher import Results, Searcher, SearchSettings

HELP = """Search an index. Example:

    python -m kddcup.search query "red leather shoes" --index shop.index --top 20
"""


@dataclass
class QuerySettings(SearchSettings):
    """Settings of a query.

    Args:
        text: the query, which may also be given before all flags.
        top: how many products are shown.
    """

    text: str = ""
    top: PositiveInt = 20


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
    searcher = settings.open()
    results = searcher.search(settings.text, settings.top)
    show(searcher, results)
    if results.reason:
        raise UserError(f"{settings.text!r} finds nothing ({results.reason}): try other words")
