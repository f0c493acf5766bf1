"""Lists of different lengths as one flat array and its offsets.

A Python object per query or product would be copied into every worker process; two arrays are shared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


def find_rows(offsets: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the positions in the flat array of the lists ``indices``, list after list.

    Args:
        offsets: [N+1] int64, list i is ``flat[offsets[i]:offsets[i + 1]]``.
        indices: [B] which lists, in any order, repeats allowed.

    Returns:
        rows: [sum of lengths] int64 positions in the flat array.
        lengths: [B] int64.
    """
    starts = offsets[indices]
    lengths = offsets[np.asarray(indices) + 1] - starts
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum()), lengths


class IdIndex:
    """The positions of ids in an array of distinct ids.

    Args:
        ids: [N] int64, in any order.
    """

    def __init__(self, ids: np.ndarray) -> None:
        self._ids, self._order = ids, np.argsort(ids)

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """Find the position of each of ``wanted``.

        Raises:
            KeyError: an id that is not there.
        """
        if len(wanted) and not len(self._ids):
            raise KeyError(int(wanted[0]))
        places = np.searchsorted(self._ids, wanted, sorter=self._order)
        found = self._order[np.minimum(places, len(self._order) - 1)]
        absent = self._ids[found] != wanted
        if absent.any():
            raise KeyError(int(np.asarray(wanted)[absent][0]))
        return found


@dataclass(frozen=True)
class Ragged:
    """N lists: ``values`` [sum of lengths] of any dtype, ``offsets`` [N+1] int64."""

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence], dtype: np.typing.DTypeLike) -> "Ragged":
        """Pack lists of numbers; reads ``lists`` once, in chunks, so that it may be a generator."""
        parts, lengths, chunk = [], [0], []
        for values in lists:
            lengths.append(len(values))
            chunk.extend(values)
            if len(chunk) > 1_000_000:
                parts.append(np.array(chunk, dtype))
                chunk = []
        parts.append(np.array(chunk, dtype))
        return cls(np.concatenate(parts), np.cumsum(lengths, dtype=np.int64))

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> "Ragged":
        """Pack strings as UTF-8 bytes (uint8)."""
        encoded = [text.encode() for text in texts]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    @classmethod
    def group(cls, keys: np.ndarray, groups: int) -> "Ragged":
        """List for each key 0 … groups−1 the ascending positions of it; those of negative keys in none."""
        order = np.argsort(keys, kind="stable")
        order = order[np.searchsorted(keys[order], 0) :]
        counts = np.bincount(keys[order], minlength=groups)
        return cls(order, np.concatenate([[0], np.cumsum(counts)]))

    @classmethod
    def collect(cls, keys: np.ndarray, values: np.ndarray, groups: int) -> "Ragged":
        """List for each key 0 … groups−1 the distinct values that stand beside it, ascending."""
        pairs = np.unique(np.stack([keys, values]), axis=1)
        counts = np.bincount(pairs[0], minlength=groups)
        return cls(pairs[1], np.concatenate([[0], np.cumsum(counts)]))

    def __len__(self) -> int:
        """N."""
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        """List i, a view."""
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """[N] int64."""
        return np.diff(self.offsets)

    def take(self, indices: np.ndarray) -> "Ragged":
        """Copy the lists ``indices`` in that order."""
        rows, lengths = find_rows(self.offsets, indices)
        return Ragged(self.values[rows], np.concatenate([[0], np.cumsum(lengths)]))

    def drop(self, value: int) -> "Ragged":
        """Copy the lists without the items that are ``value``."""
        kept = self.values != value
        before = np.concatenate([[0], np.cumsum(kept)])
        return Ragged(self.values[kept], before[self.offsets])
