"""A vocabulary and word vectors from the training queries alone."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from tqdm import tqdm

from kddcup.io.errors import UserError
from kddcup.io.ragged import Ragged
from kddcup.text.segmentation import JIEBA, UserDictionary, content_words
from kddcup.text.vocabulary import LEXICON, SPECIALS, Vocabulary, WordVectors

LEXICON_SIZE = 30_000
"""The most tokens of a lexicon."""
COUNTED_WORDS = 64
"""The most words of a query that count as occurring together, whose pairs would fill the memory."""


def build_lexicon(
    texts: Iterable[str], width: int, seed: int, dictionary: UserDictionary = JIEBA
) -> tuple[Vocabulary, WordVectors]:
    """Build a vocabulary and word vectors from the training queries alone, without a network.

    Words seen in at least two queries, the most frequent first, at most 30,000. A word's vector is
    [1, 4·u/|u|], u being the E−1 components of the truncated SVD of the positive pointwise mutual
    information of words within queries (Levy and Goldberg, 2014, "Neural word embedding as implicit matrix
    factorization"), zero-filled if there are fewer. Of a query with more than 64 words, the first 64 count as
    occurring together; how many queries these are is printed. The constant component lets an image make most
    words unlikely at once. Pad is all zero; the other specials have distinct random u.

    Args:
        texts: the distinct training queries; read once.
        width: E.
        seed: of the SVD and of the specials.
        dictionary: by which Chinese is cut into words.

    Raises:
        UserError: no word occurs twice.
    """
    lists = [
        list(dict.fromkeys(content_words(text, dictionary)))
        for text in tqdm(texts, desc="words", disable=None)
    ]
    counts = Counter(word for words in lists for word in words)
    kept = sorted(
        (word for word, count in counts.items() if count >= 2), key=lambda word: (-counts[word], word)
    )
    kept = kept[: LEXICON_SIZE - len(SPECIALS)]
    if not kept:
        raise UserError("no word occurs in two training queries: a lexicon needs more queries")
    ids = {word: i for i, word in enumerate(kept)}
    long = sum(len(words) > COUNTED_WORDS for words in lists)
    if long:
        print(f"{long:,} queries have more than {COUNTED_WORDS} words: the first {COUNTED_WORDS} count")
    occurrences = Ragged.from_lists(
        ([ids[word] for word in words[:COUNTED_WORDS] if word in ids] for words in lists), np.int64
    )
    directions = _find_directions(occurrences, len(kept), width - 1, seed)
    rng = np.random.default_rng(seed)
    specials = rng.standard_normal((len(SPECIALS), width - 1), dtype=np.float32)
    directions = np.concatenate([specials, directions])
    norms = np.linalg.norm(directions, axis=1, keepdims=True)
    vectors = np.ones((len(directions), width), np.float32)
    vectors[:, 1:] = 4 * directions / np.maximum(norms, np.finfo(np.float32).tiny)
    vectors[0] = 0
    words = WordVectors(vectors, np.ones(width, np.float32), np.zeros(width, np.float32))
    return Vocabulary(LEXICON, [*SPECIALS, *kept], dictionary=dictionary), words


def _find_directions(occurrences: Ragged, words: int, components: int, seed: int) -> np.ndarray:
    """[words, components] float32: truncated SVD of the positive pointwise mutual information."""
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import TruncatedSVD

    ones = np.ones(len(occurrences.values), np.float32)
    within = csr_matrix((ones, occurrences.values, occurrences.offsets), (len(occurrences), words))
    # [words, words] in how many queries both occur; on the diagonal the word itself.
    together = (within.T @ within).tocoo()
    seen = np.asarray(within.sum(axis=0)).ravel()
    information = np.log(together.data * len(occurrences) / (seen[together.row] * seen[together.col]))
    positive = csr_matrix((np.maximum(information, 0), (together.row, together.col)), together.shape)
    found = min(components, words - 1)
    directions = np.zeros((words, components), np.float32)
    if found > 0:
        # Says what takes the time; the decomposition does not say how far it is.
        # Of words that say nothing about one another there is no variance, whose shares are not asked for.
        with tqdm(desc="word vectors", total=1, disable=None) as bar, np.errstate(invalid="ignore"):
            directions[:, :found] = TruncatedSVD(found, random_state=seed).fit_transform(positive)
            bar.update()
    return directions
