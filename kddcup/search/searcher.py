"""Searches: words in, ranked products out."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jsonargparse.typing import NonNegativeInt

from kddcup.io.errors import UserError
from kddcup.rank.fusion import normalize, weighted_sum
from kddcup.search.columns import Columns
from kddcup.search.index import Index
from kddcup.search.models import MAX_WORDS, IndexedModel, QueryWord, WordModel, load_model
from kddcup.search.ranking import Ranking
from kddcup.search.settings import IndexSettings
from kddcup.search.similar import find_similar
from kddcup.search.threads import Threads
from kddcup.search.words import KnownWords
from kddcup.text.segmentation import segment

MEGABYTES = 1024
"""Of columns that are kept by default."""
RERANK = 50
"""The best products that are ranked by all models by default."""


@dataclass
class SearchSettings:
    """Settings of search.

    Args:
        index: folder of the index.
        first: the model that ranks the whole index; by default the one that did best on valid.
        rerank: how many of the best are then ranked by all models.
        memory: megabytes of words' columns that are kept, 2 bytes a word and a product.
    """

    index: str
    first: str | None = None
    rerank: NonNegativeInt = RERANK
    memory: NonNegativeInt = MEGABYTES

    def open(self) -> "Searcher":
        """Open the index, and load its models.

        Raises:
            UserError: as :meth:`kddcup.search.index.Index.open` and :class:`Searcher`.
        """
        return Searcher(Index.open(Path(self.index)), self.first, self.rerank, self.memory * 10**6)


class HitWord(NamedTuple):
    """A word of the query on a product: its weight, of 1 for all words, and its score there."""

    text: str
    weight: float
    score: float


class Hit(NamedTuple):
    """A product that was found, by its row; ``place`` counts from 1."""

    place: int
    product: int
    score: float
    words: tuple[HitWord, ...]


@dataclass(frozen=True)
class Results:
    """What a search found.

    Args:
        hits: best first.
        words: of the query, without stop words.
        seconds: that it took, without waiting for others.
        looked_at: products that the words' columns did not rule out, of which more was read.
        first: the model of the first ranking.
        left_out: words beyond the 32nd, which were ignored.
        reason: why there are no hits; empty where there are.
    """

    hits: tuple[Hit, ...]
    words: tuple[QueryWord, ...]
    seconds: float
    looked_at: int
    first: str
    left_out: int
    reason: str


class Searcher:
    """Searches an index; any thread may ask, and searches run one after the other.

    Args:
        index: opened.
        first: the model that ranks the whole index; by default the one that did best on the valid table.
        rerank: how many of the best are then ranked by all models of the blend.
        memory: bytes of columns that are kept.

    Raises:
        UserError: the index has no such model, or a model cannot be read.
    """

    def __init__(
        self, index: Index, first: str | None = None, rerank: int = RERANK, memory: int = MEGABYTES * 10**6
    ) -> None:
        self.index, self.rerank = index, rerank
        self.settings = IndexSettings.read(index.models_folder)
        name = first or self.settings.first
        if name not in self.settings.names:
            raise UserError(
                f"{index.folder} has no model {name}: name one of {', '.join(self.settings.names)}"
            )
        device = torch.device("cpu")
        likeness = self.settings.likeness
        wanted = dict.fromkeys([name, likeness, *(self.settings.weights if rerank else ())])
        self.models: dict[str, IndexedModel] = {
            each: load_model(each, index.models_folder, device) for each in wanted
        }
        chosen = self.models[name]
        if not isinstance(chosen, WordModel):
            raise UserError(
                f"{name} does not score word by word, and cannot rank a whole index: name another"
            )
        self.first = chosen
        self._threads, self._lock = Threads(), threading.Lock()
        self.columns = Columns(index, chosen, memory, self._threads)
        self._ranking = Ranking(index, chosen, self.columns, self._threads)
        self._similar = self.models[likeness].similar
        self._words = KnownWords.read(index.models_folder)
        # The first search takes longer: libraries are loaded then.
        for commonest in self._words.complete("", 1):
            self.search(commonest)

    def search(self, text: str, top: int = 20) -> Results:
        """Rank all products for a query and give the best ``top``."""
        with self._lock:
            start = time.perf_counter()
            return self._search(text, top, start)

    def _search(self, text: str, top: int, start: float) -> Results:
        query = self.first.read(text)
        if self.index.count == 0:
            reason = "no products"
        elif not query.words:
            reason = "no words"
        else:
            reason = "" if query.keys else "no known words"
        hits: tuple[Hit, ...] = ()
        looked_at = 0
        if not reason:
            ranked = self._ranking.rank(query, max(top, self.rerank))
            looked_at = ranked.looked_at
            order, scores = self._rerank(text, ranked.rows, ranked.scores)
            words = [query.words[place].text for place in query.read]
            hits = tuple(
                Hit(
                    place,
                    int(ranked.rows[at]),
                    float(score),
                    tuple(map(HitWord, words, ranked.weights[at].tolist(), ranked.parts[at].tolist())),
                )
                for place, (at, score) in enumerate(zip(order[:top], scores[:top], strict=True), 1)
            )
        seconds = time.perf_counter() - start
        left_out = max(0, len(query.words) - MAX_WORDS)
        return Results(hits, query.words[:MAX_WORDS], seconds, looked_at, self.first.name, left_out, reason)

    def _rerank(self, text: str, rows: np.ndarray, scores: np.ndarray) -> tuple[list[int], list[float]]:
        """Rank the best by all models: places of the rows in their new order, and the scores of all."""
        count, weights = min(self.rerank, len(rows)), self.settings.weights
        if count == 0 or set(weights) == {self.first.name}:
            return list(range(len(rows))), scores.tolist()
        best = rows[:count]
        numbers = self.index.numbers[best]
        # By number, so that equal blended scores are ranked by it.
        order = np.argsort(numbers).tolist()
        blended = []
        for name in weights:
            found = scores[:count] if name == self.first.name else self.score(name, text, best)
            blended.append(normalize({"": [(at, float(found[at])) for at in order]}, self.settings.normalize))
        ranked = weighted_sum(blended, list(weights.values()))[""]
        places = [at for at, _ in ranked] + list(range(count, len(rows)))
        return places, [score for _, score in ranked] + scores[count:].tolist()

    def score(self, name: str, text: str, rows: np.ndarray) -> np.ndarray:
        """Score rows [n] of the index by one of the models that were loaded: [n] float64."""
        model = self.models[name]
        arrays = {
            array: self.index.take(array, rows)
            for array in self.index.segments[0].arrays
            if array.startswith(f"{name}.")
        }
        return model.score(text, arrays, self._threads)

    def similar(self, product: int, top: int = 20) -> tuple[Hit, ...]:
        """Find the products whose caption heads have the largest cosine with that of a product."""
        with self._lock:
            rows, scores = find_similar(self.index, self._similar, product, top, self._threads)
        return tuple(
            Hit(place, int(row), float(score), ())
            for place, (row, score) in enumerate(zip(rows, scores, strict=True), 1)
        )

    def complete(self, prefix: str, limit: int = 8) -> list[str]:
        """Find the words that begin with a prefix, those that most rows of the training table have first."""
        return self._words.complete(prefix.lower(), limit)

    def suggest(self, word: str, limit: int = 3) -> list[str]:
        """Find the known words that are nearest to an unknown one."""
        pieces = segment(word)
        return self._words.suggest(pieces[0], limit) if pieces else []
