"""The line to beat: what plain scikit-learn learns from the same features. Example:

    python -m kddcup.baseline --data_dir data/sample --resources_dir external_resources/sample

An image is the mean m of its regions' features, as sign(m)·√|m| scaled to length 10. Two rankers learn
from the training table which words go with which images: "logistic" fits a logistic regression (C = 1) to
each word; for "neighbours" the 20 nearest training images vote, each as much as its cosine. The words are all
that valid or test ask for, and the commonest others. A candidate's score is the sum of its log probabilities
of the query's words, without stop words and words that were not learned. The predictions have the form of the
models', so that the evaluation page shows them and ensemble.py blends them; the regressions are kept too, as
logistic.npz.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xxhash
from jsonargparse.typing import PositiveInt

from kddcup.cli import parse_settings
from kddcup.io.errors import UserError
from kddcup.rank.logistic import LOGISTIC, LogisticRanker, scale
from kddcup.rank.metrics import random_ndcg, with_interval
from kddcup.rank.predictions import Predictions, ranking, read_answers, write_predictions
from kddcup.rank.split import Split
from kddcup.stages import predictions_path
from kddcup.table.extractor import check_same_extractor, read_extractor
from kddcup.table.table import Table
from kddcup.text.segmentation import JIEBA, UserDictionary, content_words
from kddcup.text.vocabulary import read_user_dictionary

FEWEST_PRODUCTS = 2
"""Of a word that no table of candidates asks for."""
NEIGHBOURS = 20
SMOOTHING = 0.01
"""Added to a share of votes: a word that no neighbour has does not rule an image out."""


@dataclass
class BaselineSettings:
    """Settings of the baseline.

    Args:
        data_dir: folder of the tables.
        resources_dir: folder of predictions; {valid,test}_pred_{logistic,neighbours}.json and logistic.npz
            are written there.
        split: the test table.
        sample: products of the training table that are learned from at most.
        words: how many words are learned, if valid and test do not ask for more. A word takes 0.03 seconds
            with 4,000 products of 1,280 dimensions.
        model: a logistic.npz of an earlier run; valid and the test table are scored with it, and nothing is
            learned.
    """

    data_dir: str = "data"
    resources_dir: str = "external_resources"
    split: Literal["testA", "testB"] = "testB"
    sample: PositiveInt = 10_000
    words: PositiveInt = 500
    model: str | None = None


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
            UserError: it cannot be read, or its features are not of ``dim`` dimensions.
        """
        words: dict[str, list[str]] = {}
        products: dict[str, dict[int, int]] = {}
        images: list[np.ndarray] = []
        places: dict[tuple[int, int], int] = {}
        for row in Table(path).rows(f"read {path.name}"):
            if row.features.shape[1] != dim:
                raise UserError(
                    f"{path} has regions of {row.features.shape[1]} dimensions, and what is learned from has "
                    f"{dim}: make both by one extractor"
                )
            query = str(row.query_id)
            words.setdefault(query, content_words(row.query, dictionary))
            place = places.setdefault((row.product_id, row.checksum), len(images))
            if place == len(images):
                images.append(row.features.mean(0))
            # A product stands once under a query, as its first row there.
            products.setdefault(query, {}).setdefault(row.product_id, place)
        return cls(words, products, np.stack(images))

    def rank(self, scores: np.ndarray, columns: Mapping[str, int]) -> Predictions:
        """The candidates of each query, best first, by the sum of the scores [images, words] of its words."""
        predictions = {}
        for query, places in self.products.items():
            known = [columns[word] for word in self.words[query] if word in columns]
            total = scores[:, known].sum(1)
            scored = [(product, float(total[place])) for product, place in places.items()]
            predictions[query] = sorted(scored, key=lambda candidate: -candidate[1])
        return predictions


def fit_neighbours(means: np.ndarray, labels: Mapping[str, np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Keep the images to vote.

    Args:
        means: as of :meth:`LogisticRanker.fit`.
        labels: likewise.

    Returns:
        From mean features [M, D] to the log of the share of votes [M, W].
    """
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(means)), metric="cosine").fit(scale(means))
    has_word = np.stack(list(labels.values()), 1)

    def log_shares(others: np.ndarray) -> np.ndarray:
        distances, nearest = index.kneighbors(scale(others))
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


def choose_words(sample: ProductSample, asked: Iterable[str], limit: int) -> list[str]:
    """Choose the words to learn, in alphabetical order.

    These are the words that are ``asked`` for, and up to the ``limit`` the commonest others of two products
    at least; of either those that some products of the sample have and some have not.
    """
    products = Counter(word for words in sample.words.values() for word in words)
    known = {word for word, count in products.items() if count < len(sample.images)}
    chosen = known.intersection(asked)
    others = sorted(known - chosen, key=lambda word: (-products[word], word))
    common = [word for word in others if products[word] >= FEWEST_PRODUCTS]
    return sorted(chosen.union(common[: max(0, limit - len(chosen))]))


def learn(
    settings: BaselineSettings, sample: ProductSample, dictionary: UserDictionary, asked: set[str]
) -> tuple[LogisticRanker, Callable[[np.ndarray], np.ndarray]]:
    """Learn both rankers, and write the logistic one.

    Args:
        settings: where from and where to.
        sample: what is learned from.
        dictionary: by which Chinese queries are cut into words.
        asked: the words that the other tables ask for.

    Raises:
        UserError: the sample has none of these words.
    """
    words = choose_words(sample, asked, settings.words)
    if not asked.intersection(words):
        raise UserError(
            f"{settings.data_dir}/train/train.tsv has none of the words of valid: nothing can be learned"
        )
    means = np.stack(list(sample.images.values()))
    labels = {word: np.array([word in own for own in sample.words.values()]) for word in words}
    logistic = LogisticRanker.fit(means, labels, dictionary, read_extractor(Path(settings.data_dir)))
    logistic.write(Path(settings.resources_dir) / LOGISTIC)
    return logistic, fit_neighbours(means, labels)


def main() -> None:
    """Fit both rankers, or read the logistic one, write predictions and say how they do."""
    settings = parse_settings(BaselineSettings, __doc__)
    data, folder = Path(settings.data_dir), Path(settings.resources_dir)
    splits = {"valid": Split(data, "valid"), "test": Split(data, settings.split)}

    def read_tables(dim: int, dictionary: UserDictionary) -> dict[str, Candidates]:
        return {name: Candidates.read(split.table, dim, dictionary) for name, split in splits.items()}

    if settings.model:
        logistic = LogisticRanker.read(Path(settings.model))
        advice = "take features by the extractor of those that it was learned from"
        check_same_extractor(logistic.extractor, settings.model, read_extractor(data), str(data), advice)
        tables = read_tables(logistic.weights.shape[1], logistic.dictionary)
        rankers = {"logistic": logistic.score}
    else:
        dictionary = read_user_dictionary(data)
        sample = read_sample(data / "train" / "train.tsv", settings.sample, dictionary)
        tables = read_tables(len(next(iter(sample.images.values()))), dictionary)
        asked = {word for table in tables.values() for words in table.words.values() for word in words}
        logistic, neighbours = learn(settings, sample, dictionary, asked)
        rankers = {"logistic": logistic.score, "neighbours": neighbours}
    columns = {word: place for place, word in enumerate(logistic.words)}
    for name, split in splits.items():
        table = tables[name]
        found = {ranker: table.rank(score(table.images), columns) for ranker, score in rankers.items()}
        for ranker, predictions in found.items():
            write_predictions(predictions_path(folder, name, ranker), predictions)
        if split.answers.is_file():
            show_figures(split, found)
    print(f"{len(columns)} words, predictions: {folder}/{{valid,test}}_pred_{{{','.join(rankers)}}}.json")
