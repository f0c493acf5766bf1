"""From a query to its words: segmentation and stop words."""

import functools
import re
from importlib import resources

_CHINESE = re.compile("[\u3400-\u9fff]")
_BREAKS = re.compile(r"[\s\-]+")
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")


@functools.cache
def stop_words() -> frozenset[str]:
    """The 179 English function words and ``-``, ``'`` and ``s``."""
    words = resources.files("kddcup.text").joinpath("stopwords_en.txt").read_text("utf-8").split()
    return frozenset(words) | {"-", "'", "s"}


def segment(text: str) -> list[str]:
    """Whole words in lower case, cut at blanks, hyphens or by jieba, without punctuation at the edges."""
    text = text.lower()
    if _CHINESE.search(text):
        import jieba  # builds its dictionary for a second, which English queries need not wait for

        jieba.setLogLevel("WARNING")
        pieces = [part for cut in jieba.cut(text) for part in _BREAKS.split(cut)]
    else:
        pieces = _BREAKS.split(text)
    words = (_EDGES.sub("", piece) for piece in pieces)
    return [word for word in words if word]


def content_words(text: str) -> list[str]:
    """The whole words of a query that are no stop words."""
    return [word for word in segment(text) if word not in stop_words()]
