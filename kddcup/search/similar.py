"""Products that look alike: the cosine of their caption heads, exact."""

from collections.abc import Callable

import numpy as np
import torch

from kddcup.search.columns import BLOCK_BYTES
from kddcup.search.index import Index
from kddcup.search.threads import Threads

SLACK = 1e-3
"""How far a cosine in float32 may be from the exact one, in any order of sums: 1,024 · 2^-24, and room."""


def find_similar(
    index: Index, array: str, product: int, top: int, threads: Threads
) -> tuple[np.ndarray, np.ndarray]:
    """Find the products most like one, without it.

    Args:
        index: of the products.
        array: the name of the vectors [N, E], or [N, 1, E], that are compared.
        product: its row.
        top: how many.
        threads: that compute.

    Returns:
        rows and cosines [k], the largest first, equal ones by number.
    """
    wanted = index.take(array, np.array([product])).astype(np.float64).ravel()
    vector = torch.from_numpy(wanted / max(np.linalg.norm(wanted), np.finfo(np.float64).tiny)).float()
    rough = torch.empty(len(index))
    for segment, offset in zip(index.segments, index.offsets.tolist(), strict=False):
        heads = torch.from_numpy(segment.arrays[array]).flatten(1)
        _multiply(heads, vector, rough[offset : offset + len(heads)], threads)
    others = torch.from_numpy(index.alive.copy())
    others[product] = False
    rough[~others] = -torch.inf
    k = min(top, int(others.sum()))
    if k <= 0:
        return np.zeros(0, np.int64), np.zeros(0)
    least = rough.topk(k).values[-1].item() - 2 * SLACK
    rows = ((rough >= least) & others).nonzero()[:, 0].numpy()
    found = index.take(array, rows).astype(np.float64).reshape(len(rows), -1)
    norms = np.sqrt((found * found).sum(1)) * np.linalg.norm(wanted)
    cosines = (found * wanted).sum(1) / np.maximum(norms, np.finfo(np.float64).tiny)
    best = np.lexsort((index.numbers[rows], -cosines))[:k]
    return rows[best], cosines[best]


def _multiply(heads: torch.Tensor, vector: torch.Tensor, cosines: torch.Tensor, threads: Threads) -> None:
    width = heads.shape[1]
    block = max(1, BLOCK_BYTES // (4 * width))

    def prepare() -> Callable[[int, int], None]:
        wide = torch.empty(block, width)

        def work(start: int, stop: int) -> None:
            rows = wide[: stop - start]
            rows.copy_(heads[start:stop])
            torch.mv(rows, vector, out=cosines[start:stop])
            cosines[start:stop] /= torch.linalg.vector_norm(rows, dim=1).clamp_min(torch.finfo().tiny)

        return work

    threads.run(prepare, len(heads), block)
