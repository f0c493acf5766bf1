"""What the lists of candidates give away by themselves: see docs/leak.md."""

from collections import Counter
from typing import Literal

from kddcup.rank.predictions import Predictions

ListedOnce = Literal["first"]


def put_listed_once_first(predictions: Predictions) -> Predictions:
    """Put the candidates whose product is listed under one query alone before the others of their query.

    Among those, and among the others, the order stays; so do the scores, which are then not sorted.

    Args:
        predictions: of a whole table, whose lists are counted.
    """
    lists = Counter(product for candidates in predictions.values() for product, _ in candidates)
    return {
        query: sorted(candidates, key=lambda candidate: lists[candidate[0]] > 1)
        for query, candidates in predictions.items()
    }
