"""Negatives: another query and another product for each row, near the row's own."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kddcup.data.corpus import Corpus
from kddcup.io.errors import UserError
from kddcup.io.ragged import IdIndex, Ragged

HEAD_CLASS_SHARE = 0.8
"""How often the head class is drawn from, and not the cluster."""
MAX_TRIES = 20
"""How many draws of a group may be refused before the next group is tried."""


@dataclass(frozen=True)
class NegativeRule:
    """How a stage chooses between the query's head class and its cluster.

    Args:
        shared_group: whether the negative query and the negative image come from the same group; else each
            group is chosen by itself.
        from_all_share: of the draws from a cluster, the share that is made from all queries instead.
    """

    shared_group: bool
    from_all_share: float


class Matches:
    """Which products match a query by words: those whose queries have, together, all words of it.

    "Granny smith apple" lists products that "apple" does not, and that are no negatives of it.

    Args:
        corpus: rows, and the words of queries.
    """

    def __init__(self, corpus: Corpus) -> None:
        products, owner = np.unique(corpus.row_product, return_inverse=True)
        words = corpus.tokens.take(corpus.row_query)
        self._tokens, self._places = corpus.tokens, IdIndex(products)
        self._words = Ragged.collect(np.repeat(owner, words.lengths), words.values, len(products))

    def find(self, queries: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Find which match.

        Args:
            queries: [Q] indices of queries that have words.
            products: [P] ids.

        Returns:
            [Q, P] bool.
        """
        words = self._tokens.take(queries)
        has = [np.isin(words.values, self._words[place]) for place in self._places.find(products)]
        return np.logical_and.reduceat(np.stack(has, axis=1), words.offsets[:-1])


class NegativeSampler:
    """Draws negatives from compact arrays. What a row gets depends on seed, epoch and row alone.

    With probability 0.8 the query's head class is drawn from, else its cluster. A group with no other query,
    or 20 draws in vain, lead to the next: head class, cluster, all queries with words.

    Args:
        corpus: groups, and products of queries.
        rule: of the stage.
        seed: of the run.
        matches: by which a drawn query or image that matches the row's is refused; none by default.

    Raises:
        UserError: as :func:`check_negatives`.
    """

    def __init__(self, corpus: Corpus, rule: NegativeRule, seed: int, matches: Matches | None = None) -> None:
        check_negatives(corpus)
        self._corpus, self._rule, self._seed, self.matches = corpus, rule, seed, matches
        self._all = np.flatnonzero(corpus.tokens.lengths)

    def draw(self, rows: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw negatives of rows.

        Args:
            rows: [B] positions in the table; their queries have words.
            epoch: from 0.

        Returns:
            queries: [B] indices of other queries, each with words; they may list the row's product.
            products: [B] ids of products that the row's query does not list.

        Where 20 draws from each group give nothing but what matches, a match is taken.
        """
        drawn = [
            self._draw_row(np.random.default_rng([self._seed, epoch, row]), row) for row in rows.tolist()
        ]
        queries, products = np.array(drawn, np.int64).reshape(-1, 2).T
        return queries, products

    def _draw_row(self, rng: np.random.Generator, row: int) -> tuple[int, int]:
        query, product = int(self._corpus.row_query[row]), int(self._corpus.row_product[row])
        own = set(self._corpus.products[query].tolist())
        groups = self._groups(rng, query)
        drawn = (other for other, _ in self._candidates(rng, query, groups))
        negative_query = next((other for other in drawn if not self._match(other, product)), None)
        if negative_query is None:
            negative_query = next(other for other, _ in self._candidates(rng, query, groups))
        if not self._rule.shared_group:
            groups = self._groups(rng, query)
        for _, other in self._candidates(rng, query, groups):
            if other not in own and not self._match(query, other):
                return negative_query, other
        others = np.setdiff1d(self._corpus.products.values, self._corpus.products[query])
        return negative_query, int(rng.choice(others))

    def _match(self, query: int, product: int) -> bool:
        return self.matches is not None and bool(self.matches.find(np.array([query]), np.array([product])))

    def _groups(self, rng: np.random.Generator, query: int) -> list[np.ndarray]:
        """The groups to try, in order."""
        corpus = self._corpus
        cluster = corpus.by_cluster[corpus.cluster[query]]
        if rng.random() < HEAD_CLASS_SHARE:
            return [corpus.by_head_class[corpus.head_class[query]], cluster, self._all]
        if rng.random() < self._rule.from_all_share:
            return [self._all]
        return [cluster, self._all]

    def _candidates(
        self, rng: np.random.Generator, query: int, groups: list[np.ndarray]
    ) -> Iterator[tuple[int, int]]:
        """Up to 20 other queries of each group, each with one of its products."""
        for group in groups:
            if len(group) < 2:
                continue
            for _ in range(MAX_TRIES):
                # The query's own place is skipped, so that no draw is refused for being the anchor.
                place = int(rng.integers(len(group) - 1))
                other = int(group[place + (place >= np.searchsorted(group, query))])
                products = self._corpus.products[other]
                yield other, int(products[rng.integers(len(products))])


def check_negatives(corpus: Corpus) -> None:
    """See that each row can have a negative query and a negative image.

    Raises:
        UserError: fewer than two queries have words, or one that has lists every product.
    """
    with_words = np.flatnonzero(corpus.tokens.lengths)
    if len(with_words) < 2:
        raise UserError(
            "negatives need at least two training queries with words: check the table and --tokenizer"
        )
    products = len(np.unique(corpus.products.values))
    lists_all = with_words[corpus.products.lengths[with_words] == products]
    if len(lists_all):
        raise UserError(
            f"training query {corpus.query_ids[lists_all[0]]} lists every product there is, "
            "so that it can have no negative image: add rows of other queries, or take it out"
        )
