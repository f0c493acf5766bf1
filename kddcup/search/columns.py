"""A column for each word: its score with every product of an index, from above, 2 bytes a product."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kddcup.search.index import Index
from kddcup.search.models import WordModel, WordQuery
from kddcup.search.threads import Threads

BLOCK_BYTES = 1 << 21
"""The bytes of float32 that a thread works on at a time: its cache holds most of them."""
ROUNDING, TINY = 2.0**-10 * 1.01, 2.0**-23
"""How far rounding up to float16 takes a number at most: ROUNDING of what it becomes, and TINY."""
_HALF_UNIT, _SINGLE_UNIT = 2.0**-11, 2.0**-24
_LARGEST = 65504.0
"""Of float16."""


class Columns:
    """The columns of a model's words, made at their first use and kept as memory allows, most used first.

    A column holds for each row of the index its score with a word, rounded up to float16: it is never below
    the exact one, and :meth:`lower` of it never above.

    Args:
        index: of the products.
        model: of the index.
        memory: bytes that may be kept.
        threads: that compute.
    """

    def __init__(self, index: Index, model: WordModel, memory: int, threads: Threads) -> None:
        self._index, self._model, self._threads = index, model, threads
        self._most = memory // max(1, 2 * len(index))
        self._kept: dict[int, Tensor] = {}
        self._uses: Counter[int] = Counter()
        self._norm = max((segment.norms[model.heads] for segment in index.segments), default=0.0)

    @property
    def nbytes(self) -> int:
        """What is kept."""
        return sum(column.nbytes for column in self._kept.values())

    def find(self, query: WordQuery) -> Tensor:
        """Find or make the columns of a query's T words: [T, N] float16."""
        wanted = dict.fromkeys(query.keys)
        self._uses.update(wanted.keys())
        new = [key for key in wanted if key not in self._kept]
        found = {key: self._kept[key] for key in wanted if key in self._kept}
        if new:
            found.update(zip(new, self._compute(query, new), strict=True))
            for key in new:
                self._keep(key, found[key])
        return torch.stack([found[key] for key in query.keys])

    def lower(self, query: WordQuery, columns: Tensor) -> Tensor:
        """What the exact scores behind columns, as float32 [T, ..], are at least."""
        slack = 2 * self._find_slack(query.vectors)  # [T]
        shape = (-1, *[1] * (columns.dim() - 1))
        finite = columns.clamp(max=_LARGEST)
        lower = finite - finite.abs() * ROUNDING - (TINY + torch.from_numpy(slack).float()).view(shape)
        return lower.masked_fill(columns <= -_LARGEST, -torch.inf)  # these were below float16

    def _keep(self, key: int, column: Tensor) -> None:
        if len(self._kept) >= self._most:
            least = min(self._kept, key=self._uses.__getitem__, default=None)
            if least is None or self._uses[least] > self._uses[key]:
                return
            del self._kept[least]
        self._kept[key] = column

    def _find_slack(self, vectors: np.ndarray) -> np.ndarray:
        """How far a product of vectors [T, E] with a head may be from the exact one, in whatever order.

        The bound is Higham's (2002, "Accuracy and Stability of Numerical Algorithms", section 3.1), by Cauchy
        and Schwarz: n·u / (1 − n·u) times both norms.
        """
        terms = vectors.shape[1] * _SINGLE_UNIT
        return 1.01 * terms / (1 - terms) * np.linalg.norm(vectors, axis=1) * self._norm + 1e-6

    def _compute(self, query: WordQuery, keys: list[int]) -> Tensor:
        """Compute the columns of words [W, N] float16."""
        places = [query.keys.index(key) for key in keys]
        vectors = query.vectors[places]
        best = torch.empty(len(keys), len(self._index))
        for segment, offset in zip(self._index.segments, self._index.offsets.tolist(), strict=False):
            heads = torch.from_numpy(segment.arrays[self._model.heads])
            self._multiply(heads, torch.from_numpy(vectors), best[:, offset : offset + len(heads)])
        best += torch.from_numpy(query.biases[places] + self._find_slack(vectors)).float()[:, None]
        if query.log_sigmoid:
            best = F.logsigmoid(best)
        best += best.abs() * (1.001 * _HALF_UNIT) + 2 * _SINGLE_UNIT
        return best.clamp(min=-_LARGEST).half()

    def _multiply(self, heads: Tensor, vectors: Tensor, best: Tensor) -> None:
        """Write the best products of ``vectors`` [W, E] with ``heads`` [n, H, E] into ``best`` [W, n]."""
        _, count, width = heads.shape
        block = max(1, BLOCK_BYTES // (4 * count * width))

        def prepare() -> Callable[[int, int], None]:
            wide = torch.empty(block * count, width)
            products = torch.empty(len(vectors), block * count)

            def work(start: int, stop: int) -> None:
                rows = (stop - start) * count
                wide[:rows].view(-1, count, width).copy_(heads[start:stop])
                # One vector at a time: a product with all of them as a matrix is slower.
                for vector, product in zip(vectors, products, strict=True):
                    torch.mv(wide[:rows], vector, out=product[:rows])
                torch.amax(products[:, :rows].view(len(vectors), -1, count), 2, out=best[:, start:stop])

            return work

        self._threads.run(prepare, len(heads), block)
