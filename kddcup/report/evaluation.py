"""What the page shows of models' predictions: scores, pictures, and where the blend does badly."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import kendalltau

from kddcup.io.errors import UserError
from kddcup.rank.blend import Blend
from kddcup.rank.explanation import Explanation
from kddcup.rank.fusion import normalize
from kddcup.rank.metrics import NDCG, bootstrap_interval, measure, ndcg_per_query, random_ndcg
from kddcup.rank.predictions import Predictions, ranking
from kddcup.rank.weights import GRID, CandidateScores
from kddcup.table.table import Table
from kddcup.text.segmentation import UserDictionary, content_words

FEWEST_QUERIES = 5
"""A word, label or length of fewer queries says nothing of its own."""
WORST = 12
"""Rows of a table of what does badly."""
DRAWS = 2_000
"""Of the bootstrap of each of these, whose intervals are shown with two digits."""


class Picture(NamedTuple):
    """An image as its regions: ``boxes`` [n, 4] whole pixels, top, left, bottom, right; ``labels`` [n]."""

    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Pictures:
    """The rows of a table whose queries count.

    ``texts`` by query id; ``images`` each once; ``places``: where the image of a query id and product stands.
    """

    texts: dict[str, str]
    images: list[Picture]
    places: dict[tuple[str, int], int]


def read_pictures(path: Path, source: Path, predictions: Predictions, queries: Collection[str]) -> Pictures:
    """Read the rows of some queries from the table ``path``.

    Raises:
        UserError: it cannot be read, or lacks a candidate of ``predictions``, which are from ``source``.
    """
    texts, images, places = {}, [], {}
    seen: dict[tuple[int, bytes], int] = {}
    for row in Table(path).rows(f"read {path.name}"):
        query = str(row.query_id)
        if query not in queries:
            continue
        texts.setdefault(query, row.query)
        # A product may come with other pictures; the first under a query is the one that was scored.
        image = seen.setdefault((row.checksum, row.class_labels.tobytes()), len(images))
        if image == len(images):
            boxes = np.rint(row.boxes).astype(np.int64)
            images.append(Picture(row.image_h, row.image_w, boxes, row.class_labels))
        places.setdefault((query, row.product_id), image)
    for query in queries:
        for product, _ in predictions[query]:
            if (query, product) not in places:
                raise UserError(
                    f"{path} lacks product {product} under query {query}, which {source} has: "
                    "make the predictions with 'python validation.py' from this table"
                )
    return Pictures(texts, images, places)


class Group(NamedTuple):
    """Queries that share something, and their NDCG@5.

    ``loss`` is what the mean over all queries would gain if these came up to it: n/N · (that mean − theirs).
    """

    name: Any
    queries: int
    ndcg: float
    interval: tuple[float, float]
    loss: float


@dataclass(frozen=True)
class Groups:
    """The groups below the mean, first what loses most; ``considered`` is how many have enough queries."""

    worst: list[Group]
    considered: int

    @classmethod
    def of(cls, traits: list[set], ndcg: np.ndarray) -> "Groups":
        """Group queries by their ``traits``, of which a query may have several; ``ndcg`` [queries]."""
        members: dict[Any, list[int]] = {}
        for query, present in enumerate(traits):
            for trait in sorted(present):
                members.setdefault(trait, []).append(query)
        enough = {name: ndcg[queries] for name, queries in members.items() if len(queries) >= FEWEST_QUERIES}
        losses = {name: float((ndcg.mean() - group).sum() / len(ndcg)) for name, group in enough.items()}
        losing = [name for name, loss in losses.items() if loss > 0]
        worst = sorted(losing, key=lambda name: -losses[name])[:WORST]
        groups = [
            Group(
                name,
                len(enough[name]),
                enough[name].mean(),
                bootstrap_interval(enough[name], draws=DRAWS),
                losses[name],
            )
            for name in worst
        ]
        return cls(groups, len(enough))


@dataclass(frozen=True)
class Evaluation:
    """Models and their blend on the queries of a table.

    Args:
        blend: the models' names and weights.
        models: each model's scores by query of the whole table, in the order of the blend.
        answers: relevant product ids by query id; its queries are the ones that count.
        pictures: of the candidates.
        explanations: what a model's scores are made of, by query; may be empty.
        explained: the name of that model.
        baselines: scores by query of each ranker of ``python -m kddcup.baseline`` that was run.
        dictionary: by which Chinese queries are cut into words.
    """

    blend: Blend
    models: list[Predictions]
    answers: dict[str, list[int]]
    pictures: Pictures
    explanations: dict[str, Explanation]
    explained: str
    baselines: dict[str, Predictions]
    dictionary: UserDictionary

    @property
    def names(self) -> list[str]:
        """The names of the models, and the blend's."""
        blend = "blend, listed once first" if self.blend.listed_once else "blend"
        return [*(model.name for model in self.blend.models), blend]

    @cached_property
    def scores(self) -> list[Predictions]:
        """The scores of each model and of the blend, of the queries that count, in the order of each."""
        rankers = [*self.models, self.blend.apply(self.models)]
        return [{query: scores[query] for query in self.answers} for scores in rankers]

    @cached_property
    def metrics(self) -> dict[str, dict[str, np.ndarray]]:
        """[queries] each metric of each model, of the blend and of each ranker of the baseline, by names."""
        rankers = [*zip(self.names, self.scores, strict=True), *self.baselines.items()]
        return {name: measure(ranking(scores), self.answers) for name, scores in rankers}

    @cached_property
    def ndcg(self) -> list[np.ndarray]:
        """[queries] NDCG@5 of each model and of the blend."""
        return [self.metrics[name][NDCG] for name in self.names]

    @cached_property
    def ndcg_by_scores(self) -> float:
        """The mean NDCG@5 of the blend in the order of its scores."""
        if not self.blend.listed_once:
            return float(self.ndcg[-1].mean())
        return float(ndcg_per_query(ranking(self.blend.fuse(self.models)), self.answers).mean())

    @property
    def random(self) -> float:
        """NDCG@5 to be expected of a random order."""
        return random_ndcg(ranking(self.scores[0]), self.answers)

    @cached_property
    def curve(self) -> np.ndarray:
        """[100] the mean NDCG@5 of two models at each weight of ``GRID``."""
        models = [normalize(model, self.blend.normalize) for model in self.models]
        return CandidateScores.of(models, self.answers).ndcg(GRID).mean(1)

    def disagreement(self, query: str) -> float:
        """Compute the share of pairs of candidates that two models order differently, mean over the models.

        This is Kendall's distance (Kendall, 1938), (1 − τ) / 2: 0 of equal orders, 1/2 of unrelated ones.
        """
        orders = [[product for product, _ in model[query]] for model in self.models]
        if len(orders) < 2 or len(orders[0]) < 2:
            return 0.0
        distances = []
        for order, other in combinations(orders, 2):
            places = {product: place for place, product in enumerate(other)}
            tau = kendalltau(range(len(order)), [places[product] for product in order]).statistic
            distances.append((1 - tau) / 2)
        return float(np.mean(distances))

    def find_labels(self, query: str) -> set[int]:
        """Find the class labels of the regions of a query's answers."""
        answers = (self.pictures.places.get((query, product)) for product in self.answers[query])
        return {
            label
            for image in answers
            if image is not None
            for label in self.pictures.images[image].labels.tolist()
        }

    @cached_property
    def traits(self) -> dict[str, list[set]]:
        """Per query, by kind: its words without stop words, its answers' labels, its number of words."""
        words = [content_words(self.pictures.texts[query], self.dictionary) for query in self.answers]
        return {
            "word": [set(query) for query in words],
            "label": [self.find_labels(query) for query in self.answers],
            "length": [{len(query)} for query in words],
        }

    def groups(self) -> dict[str, Groups]:
        """Find the words, labels and lengths that lose most in the blend, by kind."""
        return {kind: Groups.of(traits, self.ndcg[-1]) for kind, traits in self.traits.items()}
