"""Stage 2 reads queries without their unknown words."""

from collections.abc import Callable

from kddcup.text import Vocabulary


def known_words(vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """A query's token ids, unknown words dropped."""
    return lambda text: [token for token in vocabulary.encode(text) if token != vocabulary.unknown]
