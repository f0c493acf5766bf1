"""A logistic regression to each word, on the mean feature of an image."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from kddcup.io.errors import UserError
from kddcup.io.files import read_arrays, write_arrays
from kddcup.table.extractor import Extractor
from kddcup.text.segmentation import JIEBA, UserDictionary

MADE_BY = "python -m kddcup.baseline"
LOGISTIC = "logistic.npz"
"""The file of the regressions, beside the predictions."""
LENGTH = 10.0
"""Of an image's feature; it decides how much C = 1 shrinks the weights."""
ITERATIONS = 1000
"""A regression takes about 20; one that takes more is used as it is."""


def scale(means: np.ndarray) -> np.ndarray:
    """[N, D] mean features as sign(m)·√|m|, each scaled to :data:`LENGTH`."""
    roots = np.sign(means) * np.sqrt(np.abs(means))
    norms = np.linalg.norm(roots, axis=1, keepdims=True)
    return LENGTH * roots / np.maximum(norms, np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class LogisticRanker:
    """A logistic regression to each of W words, on the mean m of the features of an image's regions.

    The log probability that a word goes with an image is log σ(weight · x + bias), with x that of
    :func:`scale`.

    Args:
        words: in the order of the weights, no two alike.
        weights: [W, D] float32.
        biases: [W] float32.
        dictionary: by which Chinese queries are cut into words.
        extractor: what made the features; None where that is not known.

    Raises:
        ValueError: the shapes do not fit together, a word is there twice, or these are no finite numbers.
    """

    words: Sequence[str]
    weights: np.ndarray
    biases: np.ndarray
    dictionary: UserDictionary = JIEBA
    extractor: Extractor | None = None

    def __post_init__(self) -> None:
        """Check that they fit together."""
        count = len(set(self.words))
        if not count == len(self.words) == len(self.weights) or self.biases.shape != (count,):
            shapes = f"weights {list(self.weights.shape)} and biases {list(self.biases.shape)}"
            raise ValueError(f"{len(self.words)} words, {count} of them different, {shapes}")
        if self.weights.ndim != 2 or not all(
            array.dtype == np.float32 and np.isfinite(array).all() for array in (self.weights, self.biases)
        ):
            raise ValueError("the weights are not a matrix of finite numbers")

    @classmethod
    def fit(
        cls,
        means: np.ndarray,
        labels: Mapping[str, np.ndarray],
        dictionary: UserDictionary = JIEBA,
        extractor: Extractor | None = None,
    ) -> "LogisticRanker":
        """Fit it, with C = 1.

        Args:
            means: [N, D] mean features.
            labels: by word, [N] whether an image goes with it; none is all true or all false.
            dictionary: that the words are cut by.
            extractor: what made the features, if known.
        """
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        images, fitted = scale(means), LogisticRegression(C=1, max_iter=ITERATIONS)
        weights = np.empty((len(labels), images.shape[1]), np.float32)
        biases = np.empty(len(labels), np.float32)
        # Threads that share so small a product wait for each other most of the time.
        with threadpool_limits(1):
            columns = tqdm(labels.values(), desc="logistic", unit="word", disable=None)
            for place, column in enumerate(columns):
                fitted.fit(images, column)
                weights[place], biases[place] = fitted.coef_[0], fitted.intercept_[0]
        return cls(list(labels), weights, biases, dictionary, extractor)

    def score(self, means: np.ndarray) -> np.ndarray:
        """Compute log probabilities [M, W] of images of mean features [M, D].

        A query's score is the sum of those of its words.
        """
        return -np.logaddexp(0, -(scale(means) @ self.weights.T + self.biases))

    def write(self, path: Path) -> None:
        """Write it as ``.npz``: the two arrays, and in ``about`` the rest as JSON."""
        about = {
            "words": list(self.words),
            "user_dict": self.dictionary.entries,
            "extractor": self.extractor and dataclasses.asdict(self.extractor),
        }
        encoded = np.frombuffer(json.dumps(about).encode(), np.uint8)
        write_arrays(path, {"weights": self.weights, "biases": self.biases, "about": encoded})

    @classmethod
    def read(cls, path: Path) -> "LogisticRanker":
        """Read what :meth:`write` wrote.

        Raises:
            UserError: the file is absent or torn, or holds something else.
        """
        arrays = read_arrays(path, MADE_BY)
        try:
            about = json.loads(arrays["about"].tobytes())
            extractor = about["extractor"] and Extractor.from_dict(about["extractor"])
            words = [str(word) for word in about["words"]]
            dictionary = UserDictionary(about["user_dict"])
            return cls(words, arrays["weights"], arrays["biases"], dictionary, extractor)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(
                f"{path} holds no logistic regressions ({error}): make it with '{MADE_BY}'"
            ) from None
