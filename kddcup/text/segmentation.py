"""From a query to its words: segmentation and stop words."""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from kddcup.io.errors import UserError

CHINESE = re.compile("[\u3400-\u9fff]")
_BREAKS = re.compile(r"[\s\-]+")
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")


class UserDictionary:
    """Words that jieba keeps together, beside those that it knows itself.

    Args:
        entries: as the lines of jieba's user dictionaries: a word, and after blanks, optionally, how often
            it occurs and its part of speech.

    Raises:
        ValueError: an entry is not text, or its frequency is not a whole number.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self.entries = list(entries)
        self._words = [_parse_entry(entry) for entry in self.entries]

    @classmethod
    def read(cls, path: Path) -> "UserDictionary":
        """Read a file of entries, one a line; empty lines are left out.

        Raises:
            UserError: it is absent, is not UTF-8, or a line is not an entry.
        """
        try:
            lines = path.read_bytes().decode("utf-8-sig").splitlines()
            return cls(line.strip() for line in lines if line.strip())
        except FileNotFoundError:
            raise UserError(f"{path} does not exist: name a file of words with --user_dict") from None
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8: save it as that") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}: expected a word, and optionally its frequency") from None

    def cut(self, text: str) -> Iterator[str]:
        """Cut a text that is in lower case."""
        return self._jieba.cut(text)

    @functools.cached_property
    def _jieba(self) -> Any:
        import jieba  # builds its dictionary for a second, which English queries need not wait for

        jieba.setLogLevel("WARNING")
        if not self._words:
            return jieba.dt
        cutter = jieba.Tokenizer()
        for word, frequency in self._words:
            cutter.add_word(word, frequency)
        return cutter


def _parse_entry(entry: str) -> tuple[str, int | None]:
    if not isinstance(entry, str) or not entry.split():
        raise ValueError("an entry is not a word")
    word, *rest = entry.lower().split()
    if not rest or (len(rest) == 1 and rest[0].isalpha()):
        return word, None
    if not rest[0].isdecimal() or len(rest) > 2:
        raise ValueError(f"the entry of {word!r} is not a word with a frequency")
    return word, int(rest[0])


JIEBA = UserDictionary()
"""Jieba's own words alone."""


@functools.cache
def stop_words() -> frozenset[str]:
    """The 179 English function words and ``-``, ``'`` and ``s``."""
    return _read_words("stopwords_en.txt") | {"-", "'", "s"}


@functools.cache
def chinese_stop_words() -> frozenset[str]:
    """Chinese function words. Of Chinese cut into single characters they would be parts of other words."""
    return _read_words("stopwords_zh.txt")


def _read_words(name: str) -> frozenset[str]:
    return frozenset(resources.files("kddcup.text").joinpath(name).read_text("utf-8").split())


def segment(text: str, dictionary: UserDictionary = JIEBA) -> list[str]:
    """Cut a text into whole words in lower case.

    It is cut at blanks and hyphens, and by jieba where it has Chinese; punctuation at the edges of a word is
    stripped.
    """
    text = text.lower()
    if CHINESE.search(text):
        pieces: Sequence[str] = [part for cut in dictionary.cut(text) for part in _BREAKS.split(cut)]
    else:
        pieces = _BREAKS.split(text)
    words = (_EDGES.sub("", piece) for piece in pieces)
    return [word for word in words if word]


def content_words(text: str, dictionary: UserDictionary = JIEBA) -> list[str]:
    """The whole words of a query that are no stop words of either language."""
    dropped = stop_words() | chinese_stop_words()
    return [word for word in segment(text, dictionary) if word not in dropped]
