"""The line to beat: what plain scikit-learn learns from the same features. Example:

    python -m kddcup.baseline --data_dir data/sample --resources_dir external_resources/sample

An image is the mean m of its regions' features, as sign(m)·√|m| scaled to length 10. Two rankers learn
from the training table which words go with which images: "logistic" fits a logistic regression (C = 1) to
each word that valid or test asks for; for "neighbours" the 20 nearest training images vote, each as much as
its cosine. A candidate's score is the sum of its log probabilities of the query's words, without stop words
and words that train does not have. The predictions have the form of the models', so that the evaluation page
shows them and ensemble.py can blend them:

    cd external_resources/sample
    python ../../ensemble.py --data_dir ../../data/sample --resources_dir . \\
        --models valid_pred_model1.json valid_pred_model2.json valid_pred_logistic.json
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash
from jsonargparse.typing import PositiveInt
from tqdm import tqdm

from kddcup.cli import parse_settings
from kddcup.io.errors import UserError
from kddcup.rank.metrics import random_ndcg, with_interval
from kddcup.rank.predictions import Predictions, ranking, read_answers, write_predictions
from kddcup.rank.split import Split
from kddcup.table.table import Table
from kddcup.text.segmentation import JIEBA, UserDictionary, content_words
from kddcup.text.vocabulary import read_user_dictionary

RANKERS = ("logistic", "neighbours")
LENGTH = 10.0
"""Of an image's feature; it decides how much C = 1 shrinks the weights."""
NEIGHBOURS = 20
SMOOTHING = 0.01
"""Added to a share of votes: a word that no neighbour has does not rule an image out."""
ITERATIONS = 1000
"""A regression takes about 20; one that takes more is used as it is."""


@dataclass
class BaselineSettings:
    """Settings of the baseline.

    Args:
        data_dir: folder of the tables.
        resources_dir: folder of predictions; {valid,test}_pred_{logistic,neighbours}.json are written there.
        split: the test table.
        sample: products of the training table that are learned from at most.
    """

    data_dir: str = "data"
    resources_dir: str = "external_resources"
    split: Literal["testA", "testB"] = "testB"
    sample: PositiveInt = 10_000


class ProductSample:
    """At most so many products of a table, any as likely as another, each with the words of all its queries.

    One pass over the table does: a product is kept where the hash of its id ends in enough zeros, and when
    there are too many they have to be one more.

    Args:
        limit: how many are kept at most.
        dictionary: by which Chinese queries are cut into words.

    Attributes:
        zeros: in which a kept product's hash ends; one product in 2^zeros is kept.
        images: the mean feature of each, [D].
        words: those of its queries.
    """

    def __init__(self, limit: int, dictionary: UserDictionary = JIEBA) -> None:
        self._limit, self._dictionary = limit, dictionary
        self.zeros = 0
        self.images: dict[int, np.ndarray] = {}
        self.words: dict[int, set[str]] = {}

    def add(self, product: int, features: np.ndarray, text: str) -> None:
        """Take up a row."""
        if not self._keeps(product):
            return
        if product not in self.images:
            self.images[product] = features.mean(0)
            self.words[product] = set()
        self.words[product].update(content_words(text, self._dictionary))
        while len(self.images) > self._limit:
            self.zeros += 1
            self.images = {kept: image for kept, image in self.images.items() if self._keeps(kept)}
            self.words = {kept: self.words[kept] for kept in self.images}

    def _keeps(self, product: int) -> bool:
        return xxhash.xxh3_64_intdigest(str(product).encode()) % (1 << self.zeros) == 0


@dataclass(frozen=True)
class Candidates:
    """A table of candidates.

    Args:
        words: of each query.
        products: of each query in the table's order, and where the image of each is.
        images: [M, D] mean features.
    """

    words: dict[str, list[str]]
    products: dict[str, dict[int, int]]
    images: np.ndarray

    @classmethod
    def read(cls, path: Path, dim: int, dictionary: UserDictionary) -> "Candidates":
        """Read a table.

        Raises:
            UserError: it cannot be read, or its features are not of ``dim`` dimensions, as those of train.
        """
        words: dict[str, list[str]] = {}
        products: dict[str, dict[int, int]] = {}
        images: list[np.ndarray] = []
        places: dict[tuple[int, int], int] = {}
        for row in Table(path).rows(f"read {path.name}"):
            if row.features.shape[1] != dim:
                raise UserError(
                    f"{path} has regions of {row.features.shape[1]} dimensions and train of {dim}: "
                    "make both by one extractor"
                )
            query = str(row.query_id)
            words.setdefault(query, content_words(row.query, dictionary))
            place = places.setdefault((row.product_id, row.checksum), len(images))
            if place == len(images):
                images.append(row.features.mean(0))
            # A product stands once under a query, as its first row there.
            products.setdefault(query, {}).setdefault(row.product_id, place)
        return cls(words, products, np.stack(images))

    def rank(self, scores: np.ndarray, columns: dict[str, int]) -> Predictions:
        """The candidates of each query, best first, by the sum of the scores [images, words] of its words."""
        predictions = {}
        for query, places in self.products.items():
            known = [columns[word] for word in self.words[query] if word in columns]
            total = scores[:, known].sum(1)
            scored = [(product, float(total[place])) for product, place in places.items()]
            predictions[query] = sorted(scored, key=lambda candidate: -candidate[1])
        return predictions


def scale(means: np.ndarray) -> np.ndarray:
    """[N, D] mean features as sign(m)·√|m|, each scaled to :data:`LENGTH`."""
    roots = np.sign(means) * np.sqrt(np.abs(means))
    norms = np.linalg.norm(roots, axis=1, keepdims=True)
    return LENGTH * roots / np.maximum(norms, np.finfo(np.float32).tiny)


def fit_logistic(images: np.ndarray, has_word: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a logistic regression to each word.

    Args:
        images: [N, D] scaled features.
        has_word: [N, W] whether an image goes with a word; no column is all true or all false.

    Returns:
        From scaled features [M, D] to log probabilities [M, W].
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    weights, biases = np.empty((has_word.shape[1], images.shape[1])), np.empty(has_word.shape[1])
    with threadpool_limits(1):  # threads that share so small a product wait for each other most of the time
        for word, column in enumerate(tqdm(has_word.T, desc="logistic", unit="word", disable=None)):
            fitted = LogisticRegression(C=1, max_iter=ITERATIONS).fit(images, column)
            weights[word], biases[word] = fitted.coef_[0], fitted.intercept_[0]
    return lambda others: -np.logaddexp(0, -(others @ weights.T + biases))


def fit_neighbours(images: np.ndarray, has_word: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Keep the images to vote; arguments and result as of :func:`fit_logistic`."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(images)), metric="cosine").fit(images)

    def log_shares(others: np.ndarray) -> np.ndarray:
        distances, nearest = index.kneighbors(others)
        cosines = np.maximum(1 - distances, np.finfo(np.float32).tiny)  # [M, neighbours]
        votes = cosines / cosines.sum(1, keepdims=True)
        shares = np.stack([vote @ has_word[one] for vote, one in zip(votes, nearest, strict=True)])
        return np.log(shares + SMOOTHING)

    return log_shares


def read_sample(path: Path, limit: int, dictionary: UserDictionary) -> ProductSample:
    """Read what is learned from; says so where it is not all."""
    sample = ProductSample(limit, dictionary)
    for row in Table(path).rows(f"read {path.name}"):
        sample.add(row.product_id, row.features, row.query)
    if sample.zeros:
        print(
            f"learned from a sample of {len(sample.images):,} products, one in {1 << sample.zeros:,} of "
            f"{path}; '--sample N' takes another number"
        )
    return sample


def show_figures(split: Split, rankers: Mapping[str, Predictions]) -> None:
    """Print NDCG@5 of a random order and of each ranker, with 95 % bootstrap intervals."""
    print(f"NDCG@5 on {split.name} [95 % bootstrap interval over queries]")
    candidates = ranking(next(iter(rankers.values())))
    print(f"  random order {random_ndcg(candidates, read_answers(split.answers)):.6f}")
    for name, predictions in rankers.items():
        print(f"  {name:<12} {with_interval(split.ndcg(predictions))}")


def main() -> None:
    """Fit both rankers, write their predictions and say how they do."""
    settings = parse_settings(BaselineSettings, __doc__)
    data, folder = Path(settings.data_dir), Path(settings.resources_dir)
    train = data / "train" / "train.tsv"
    dictionary = read_user_dictionary(data)
    sample = read_sample(train, settings.sample, dictionary)
    images = np.stack(list(sample.images.values()))
    splits = {"valid": Split(data, "valid"), "test": Split(data, settings.split)}
    dim = images.shape[1]
    tables = {name: Candidates.read(split.table, dim, dictionary) for name, split in splits.items()}

    asked = {word for table in tables.values() for words in table.words.values() for word in words}
    has_word = {word: np.array([word in own for own in sample.words.values()]) for word in sorted(asked)}
    has_word = {word: column for word, column in has_word.items() if 0 < column.sum() < len(column)}
    if not has_word:
        raise UserError(f"{train} has none of the words of {splits['valid'].table}: nothing can be learned")
    columns = {word: place for place, word in enumerate(has_word)}
    labels = np.stack(list(has_word.values()), 1)

    scaled = scale(images)
    rankers = dict(zip(RANKERS, (fit_logistic(scaled, labels), fit_neighbours(scaled, labels)), strict=True))
    for name, split in splits.items():
        scaled = scale(tables[name].images)
        found = {ranker: tables[name].rank(predict(scaled), columns) for ranker, predict in rankers.items()}
        for ranker, predictions in found.items():
            write_predictions(folder / f"{name}_pred_{ranker}.json", predictions)
        if split.answers.is_file():
            show_figures(split, found)
    print(f"predictions: {folder}/{{valid,test}}_pred_{{{','.join(RANKERS)}}}.json")
