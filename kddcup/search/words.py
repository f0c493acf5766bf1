"""The words that an index knows: to complete what somebody types, and to offer for what nobody knows."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import OSA

from kddcup.data.corpus import INFO_FILES
from kddcup.io.files import read_json, read_pickle, write_json
from kddcup.io.ragged import Ragged
from kddcup.search.segment import REBUILD
from kddcup.text.segmentation import UserDictionary, content_words

WORDS = "words.json"
"""The file of words in the folder of models."""


def count_words(data_dir: Path, dictionary: UserDictionary) -> dict[str, int]:
    """Count in how many rows of the training table each content word stands, the commonest word first.

    Raises:
        UserError: stage 1 has not been run.
    """
    made_by = f"python preprocess.py --data_dir {data_dir}"
    table, queries = (read_pickle(data_dir / "info" / name, made_by) for name in INFO_FILES[:2])
    rows = Counter(table["query_id"].tolist())
    texts = Ragged(queries["text"], queries["text_offsets"])
    counts: Counter[str] = Counter()
    for place, query in enumerate(queries["query_id"].tolist()):
        for word in dict.fromkeys(content_words(texts[place].tobytes().decode(), dictionary)):
            counts[word] += rows[query]
    return dict(counts.most_common())


def write_words(folder: Path, counts: Mapping[str, int]) -> None:
    """Write words and their counts into the folder of models."""
    write_json(folder / WORDS, dict(counts))


class KnownWords:
    """The words of the training table, the commonest first.

    Args:
        words: in that order.
    """

    def __init__(self, words: list[str]) -> None:
        self._words = words
        # In the order of the alphabet, so that those of a prefix are neighbours.
        self._order = np.argsort(np.array(words, dtype=object)) if words else np.zeros(0, np.int64)
        self._sorted = [words[place] for place in self._order.tolist()]

    @classmethod
    def read(cls, folder: Path) -> "KnownWords":
        """Read what :func:`write_words` wrote."""
        return cls(list(read_json(folder / WORDS, REBUILD)))

    def complete(self, prefix: str, limit: int) -> list[str]:
        """Find the commonest words that begin with a prefix."""
        start = bisect_left(self._sorted, prefix)
        stop = bisect_left(self._sorted, prefix + chr(0x10FFFF))
        return [self._words[place] for place in np.sort(self._order[start:stop])[:limit].tolist()]

    def suggest(self, word: str, limit: int) -> list[str]:
        """Find the words nearest to an unknown one, by edits (insert, delete, replace, swap neighbours)."""
        most = max(1, len(word) // 3)
        found = process.extract(word, self._words, scorer=OSA.distance, limit=limit, score_cutoff=most)
        return [near for near, _, _ in found]
