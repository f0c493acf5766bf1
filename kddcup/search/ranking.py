"""The exact best products of a query: bounds from columns, and scores of those that the bounds leave.

docs/search.md has the mathematics.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kddcup.search.columns import Columns
from kddcup.search.index import Index
from kddcup.search.models import WordModel, WordQuery
from kddcup.search.threads import Threads

SAMPLE = 256
"""Products whose weights stand for those of all in the first guess."""
GUESSES = 4
"""Products whose scores give the first threshold, for each that is wanted."""
WEIGHED_ROWS = 128
"""Products whose weights a thread computes at a time: its cache holds their inner layers."""
SCORED_ROWS = 256
"""Products whose exact scores are computed at a time."""
_UNIT = 2.0**-24


class Ranked(NamedTuple):
    """The best products of a query, best first; equal scores by number, ascending.

    ``rows`` [k] of the index, ``scores`` [k] float64, ``weights`` and ``parts`` [k, T] of each word;
    ``looked_at`` is how many products more than columns were read of.
    """

    rows: np.ndarray
    scores: np.ndarray
    weights: np.ndarray
    parts: np.ndarray
    looked_at: int


class Ranking:
    """Ranks all products of an index by one model.

    Args:
        index: of the products.
        model: that scores word by word.
        columns: of that model.
        threads: that compute.
    """

    def __init__(self, index: Index, model: WordModel, columns: Columns, threads: Threads) -> None:
        self._index, self._model, self._columns, self._threads = index, model, columns, threads
        self._alive = torch.from_numpy(index.alive)

    def rank(self, query: WordQuery, k: int) -> Ranked:
        """Find the best k products of a query of at least one word; fewer where there are not so many."""
        k = min(k, self._index.count)
        columns = self._columns.find(query)  # [T, N]
        if query.text is None or len(columns) == 1:  # the weight of a word alone is 1
            finalists = self._bound_sum(query, columns, k)
            looked_at = len(finalists)
        else:
            finalists, looked_at = self._bound_weighted(query, columns, k)
        return self._score(query, finalists, k, looked_at)

    def _score(self, query: WordQuery, rows: np.ndarray, k: int, looked_at: int) -> Ranked:
        """The best k of some rows by their exact scores."""
        found = [
            query.score(
                self._index.take(self._model.heads, part),
                self._index.take(self._model.weighing, part) if self._model.weighing else None,
            )
            for part in np.split(rows, range(SCORED_ROWS, len(rows), SCORED_ROWS))
        ]
        scores, weights, parts = (np.concatenate(each) for each in zip(*found, strict=True))
        best = np.lexsort((self._index.numbers[rows], -scores))[:k]
        return Ranked(rows[best], scores[best], weights[best], parts[best], looked_at)

    def _bound_sum(self, query: WordQuery, columns: Tensor, k: int) -> np.ndarray:
        """The rows among which are the best k by the sum of columns."""
        wide = columns.float()
        slack = 1e-6 * wide.abs().sum(0).max().item()
        upper = wide.sum(0) + slack
        lower = self._columns.lower(query, wide).sum(0) - slack
        lower[~self._alive] = -torch.inf
        return _rows((upper >= _kth(lower, k)) & self._alive)

    def _bound_weighted(self, query: WordQuery, columns: Tensor, k: int) -> tuple[np.ndarray, int]:
        """The rows among which are the best k by the weighted sum of columns, and how many were weighed."""
        bound = columns.amax(0).float()  # [N]: a weighted mean is no more than the largest
        bound += 1e-6 * (1 + bound.abs())

        # Guess the best by weights as they are on average; their scores give a threshold.
        sample = np.linspace(0, len(self._index) - 1, min(SAMPLE, len(self._index))).astype(np.int64)
        usual = self._weigh(query, sample).mean(1)  # [T]
        guess = usual @ columns.float()
        guess[~self._alive] = -torch.inf
        guesses = np.sort(guess.topk(min(GUESSES * k, self._index.count)).indices.numpy())
        _, lower = self._enclose(query, columns, guesses)
        threshold = _kth(lower, k)

        # All whose bound reaches it are weighed.
        survivors = _rows((bound >= threshold) & self._alive)
        upper, lower = self._enclose(query, columns, survivors)
        finalists = survivors[(upper >= _kth(lower, k)).numpy()]
        return finalists, len(np.union1d(guesses, survivors))

    def _enclose(self, query: WordQuery, columns: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Bounds of the exact scores of rows [n], from above and below: [n] each."""
        weights = self._weigh(query, rows)  # [T, n]
        high = columns[:, torch.from_numpy(rows)].float()
        low = self._columns.lower(query, high)
        # The error of a weight, relative to it, times how far the words' scores are apart.
        error = self._find_weight_error(query) * (high.amax(0) - low.amin(0)) + 1e-5 * (
            1 + high.abs().amax(0)
        )
        upper = (weights * high).sum(0) + error
        lower = (weights * low).sum(0) - error
        # Of scores beyond float16.
        return upper.nan_to_num(torch.inf, torch.inf), lower.nan_to_num(-torch.inf, -torch.inf)

    def _weigh(self, query: WordQuery, rows: np.ndarray) -> Tensor:
        """The weights of the words on rows [n], in float32: [T, n]."""
        text, output = torch.from_numpy(query.text), torch.from_numpy(query.output)
        logits = torch.empty(len(text), len(rows))
        width = text.shape[1]
        # slope · x + (1 − slope) · max(x, 0) is PReLU(x); the first part is a product of its own.
        linear = query.slope * output
        shift = text @ linear  # [T]

        def prepare() -> Callable[[int, int], None]:
            wide, inner = torch.empty(WEIGHED_ROWS, width), torch.empty(WEIGHED_ROWS, width)

            def work(start: int, stop: int) -> None:
                image, hidden = wide[: stop - start], inner[: stop - start]
                image.copy_(torch.from_numpy(self._index.take(self._model.weighing, rows[start:stop])))
                straight = torch.mv(image, linear)
                for word, row in zip(text, logits, strict=True):
                    torch.add(image, word, out=hidden)
                    hidden.clamp_min_(0)
                    torch.addmv(straight, hidden, output, alpha=1 - query.slope, out=row[start:stop])

            return work

        self._threads.run(prepare, len(rows), WEIGHED_ROWS)
        return (logits + shift[:, None]).softmax(0)

    def _find_weight_error(self, query: WordQuery) -> float:
        """How far a weight of :meth:`_weigh` may be from the exact one, relative to it."""
        norm = max(segment.norms[self._model.weighing] for segment in self._index.segments)
        largest = norm + float(np.linalg.norm(query.text, axis=1).max())
        terms = 2 * (query.text.shape[1] + 4) * _UNIT
        factor = max(1.0, abs(query.slope)) + abs(1 - query.slope)
        logit = terms / (1 - terms) * factor * largest * float(np.linalg.norm(query.output))
        return float(np.expm1(2 * logit)) + 1e-6


def _rows(mask: Tensor) -> np.ndarray:
    return mask.nonzero()[:, 0].numpy()


def _kth(values: Tensor, k: int) -> float:
    """The k-th largest of values; without so many, less than all of them."""
    return values.topk(k).values[-1].item() if 0 < k <= len(values) else -float("inf")
