"""The models of an index: what each keeps of a product, and how it scores a query against that."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kddcup import stages
from kddcup.data.batch import RegionBatch, TokenBatch
from kddcup.io.errors import UserError
from kddcup.io.ragged import Ragged
from kddcup.nn.ranker import Ranker, WordRanker
from kddcup.rank.logistic import LOGISTIC, LogisticRanker, scale
from kddcup.search.segment import REBUILD
from kddcup.search.threads import Threads
from kddcup.text.segmentation import content_words
from kddcup.text.vocabulary import Vocabulary
from kddcup.train.checkpoint import SAFETENSORS, Checkpoint

LOGISTIC_NAME = "logistic"
"""The name of the logistic regression in a blend."""
MAX_WORDS = 32
"""The most words of a query; those after them are ignored."""


class QueryWord(NamedTuple):
    """A word of a query, and whether the model knows it."""

    text: str
    known: bool


@dataclass(frozen=True)
class WordQuery:
    """A query as a model reads it that scores word by word.

    Args:
        words: of the query, without stop words.
        read: the place among ``words`` of each of the T words that count.
        keys: the id of each of these.
        vectors: [T, E] float32 that heads are multiplied with.
        biases: [T] that are added to the products.
        log_sigmoid: whether the score of a word is log σ of the best product, and not that itself.
        text: [T, S] float32, the query's side of the weights; None where words have none.
        slope: of the PReLU in the weights.
        output: [S] float32.
    """

    words: tuple[QueryWord, ...]
    read: tuple[int, ...]
    keys: tuple[int, ...]
    vectors: np.ndarray
    biases: np.ndarray
    log_sigmoid: bool
    text: np.ndarray | None = None
    slope: float = 0.0
    output: np.ndarray | None = None

    def score(
        self, heads: np.ndarray, weighing: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Score products, in float64, each of them as if it were alone: equal ones get equal scores.

        Args:
            heads: [n, H, E].
            weighing: [n, S], where words have weights.

        Returns:
            scores: [n].
            weights: [n, T] of the words; each 1 / T where words have none.
            parts: [n, T] the score of each word.
        """
        vectors = self.vectors.astype(np.float64)
        wide = heads.astype(np.float64)
        # Sums over the last dimension, which numpy computes for each row in the same way.
        parts = np.stack([(wide * vector).sum(2).max(1) for vector in vectors], 1) + self.biases  # [n, T]
        if self.log_sigmoid:
            parts = -np.logaddexp(0, -parts)
        if self.text is None:
            return parts.sum(1), np.full_like(parts, 1 / len(vectors)), parts
        inner = self.text.astype(np.float64) + weighing.astype(np.float64)[:, None]  # [n, T, S]
        inner = np.where(inner > 0, inner, self.slope * inner)
        logits = (inner * self.output.astype(np.float64)).sum(2)  # [n, T]
        weights = np.exp(logits - logits.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        return (weights * parts).sum(1), weights, parts


class IndexedModel(ABC):
    """A model of an index.

    Args:
        name: that of its stage, or ``logistic``; begins the names of its arrays.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def encode(self, images: RegionBatch) -> dict[str, np.ndarray]:
        """Encode B images as float16 arrays [B, ..], by their names."""

    @abstractmethod
    def score(self, text: str, arrays: Mapping[str, np.ndarray], threads: Threads) -> np.ndarray:
        """Score a query against n products, of which ``arrays`` hold [n, ..] each: [n] float64."""


class WordModel(IndexedModel):
    """A model whose scores are made of a column of the catalogue for each word."""

    heads: str
    """The name of the array [N, H, E] that words are multiplied with."""
    similar: str
    """The name of the array [N, E] by whose cosine products are alike."""
    weighing: str | None = None
    """The name of the array [N, S] of the images' side of the weights, where words have weights."""

    @abstractmethod
    def read(self, text: str) -> WordQuery:
        """Read a query."""

    def score(self, text: str, arrays: Mapping[str, np.ndarray], threads: Threads) -> np.ndarray:
        """Score a query by the sum over its words, 0 where it has none."""
        query, heads = self.read(text), arrays[self.heads]
        if not query.keys:
            return np.zeros(len(heads))
        return query.score(heads, arrays[self.weighing] if self.weighing else None)[0]

    @abstractmethod
    def weigh_regions(self, images: RegionBatch) -> np.ndarray:
        """Say how much each of R regions counts in its image, [R] float32, 1 an image in all."""


class _StageModel(IndexedModel):
    """The model of a stage.

    Args:
        name: of the stage.
        model: in eval mode.
        vocabulary: that it reads queries by.
        device: where it is.
    """

    def __init__(self, name: str, model: Ranker, vocabulary: Vocabulary, device: torch.device) -> None:
        super().__init__(name)
        self.model, self.vocabulary, self.device = model, vocabulary, device

    def read_tokens(self, text: str) -> TokenBatch | None:
        """The first words of a query as a batch of one; None where none is left."""
        tokens = self.model.read_query(self.vocabulary, text)[:MAX_WORDS]
        if not tokens:
            return None
        return TokenBatch.from_ragged(Ragged.from_lists([tokens], np.int64), np.array([0])).to(self.device)


class StageWordModel(_StageModel, WordModel):
    """A stage's model that scores word by word."""

    model: WordRanker

    def __init__(self, name: str, model: WordRanker, vocabulary: Vocabulary, device: torch.device) -> None:
        super().__init__(name, model, vocabulary, device)
        self.heads, self.similar = f"{name}.label_heads", f"{name}.caption_head"
        sample = model.weigh_images(torch.zeros(1, 1, model.item.width, device=device))
        self.weighing = f"{name}.weighing" if sample.shape[1] else None

    @torch.inference_mode()
    def encode(self, images: RegionBatch) -> dict[str, np.ndarray]:
        """Encode B images."""
        heads = self.model.encode_images(images.to(self.device))
        found = {self.similar: heads[:, 0], self.heads: heads[:, 1:]}
        if self.weighing:
            found[self.weighing] = self.model.weigh_images(heads)
        return {name: _to_float16(array) for name, array in found.items()}

    @torch.inference_mode()
    def weigh_regions(self, images: RegionBatch) -> np.ndarray:
        """Say how much each of R regions counts in its image."""
        images = images.to(self.device)
        item = self.model.item
        return item.weigh(item.regions(images), images.lengths).float().cpu().numpy()

    @torch.inference_mode()
    def read(self, text: str) -> WordQuery:
        """Read a query."""
        found = self.vocabulary.split(text)
        words = tuple(QueryWord(word, token != self.vocabulary.unknown) for word, token in found)
        counted = set(self.model.read_query(self.vocabulary, text))
        read = [place for place, (_, token) in enumerate(found) if token in counted][:MAX_WORDS]
        keys = tuple(found[place][1] for place in read)
        biases, log_sigmoid = np.zeros(len(keys)), self.model.log_sigmoid
        if not keys:
            return WordQuery(words, (), (), np.zeros((0, 1), np.float32), biases, log_sigmoid)
        queries = TokenBatch.from_ragged(Ragged.from_lists([keys], np.int64), np.array([0])).to(self.device)
        vectors = self.model.embed_words(queries.ids[0]).float().cpu().numpy()
        query = WordQuery(words, tuple(read), keys, vectors, biases, log_sigmoid)
        weights = self.model.weigh_words(queries)
        if weights is None:
            return query
        return replace(
            query,
            text=weights.text.float().cpu().numpy(),
            slope=float(weights.slope),
            output=weights.output.float().cpu().numpy(),
        )


class PairModel(_StageModel):
    """A stage's model that needs a pass for each pair of a query and an image."""

    @torch.inference_mode()
    def encode(self, images: RegionBatch) -> dict[str, np.ndarray]:
        """Encode B images.

        Raises:
            UserError: the model makes no tensor of them.
        """
        encoded = self.model.encode_images(images.to(self.device))
        if not isinstance(encoded, Tensor) or len(encoded) != len(images):
            raise UserError(
                f"{self.name} does not make one row of a tensor of each image, which is what an index keeps: "
                "blend without it"
            )
        return {f"{self.name}.images": _to_float16(encoded)}

    def score(self, text: str, arrays: Mapping[str, np.ndarray], threads: Threads) -> np.ndarray:
        """Score a query against n products; equal ones get equal scores."""
        queries, images = self.read_tokens(text), arrays[f"{self.name}.images"]
        if queries is None:
            return np.zeros(len(images))
        # Each once: a product of matrices rounds a row in its own way at each place.
        rows = images.reshape(len(images), -1)
        _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        distinct, scores = images[first], np.empty(len(first))

        def prepare() -> Callable[[int, int], None]:
            @torch.inference_mode()
            def work(start: int, stop: int) -> None:
                encoded = torch.from_numpy(distinct[start:stop]).float().to(self.device)
                owner = torch.zeros(len(encoded), dtype=torch.int64, device=self.device)
                scores[start:stop] = self.model.score_candidates(queries, owner, encoded).cpu().numpy()

            return work

        threads.run(prepare, len(distinct), -(-len(distinct) // threads.count))
        return scores[inverse]


class LogisticModel(WordModel):
    """The logistic regression of each word on an image's mean feature.

    Args:
        ranker: the regressions.
    """

    heads = similar = f"{LOGISTIC_NAME}.features"

    def __init__(self, ranker: LogisticRanker) -> None:
        super().__init__(LOGISTIC_NAME)
        self._ranker = ranker
        self._places = {word: place for place, word in enumerate(ranker.words)}

    def encode(self, images: RegionBatch) -> dict[str, np.ndarray]:
        """Encode B images as their scaled mean features, one head each."""
        features = images.features.numpy()
        means = [part.mean(0) for part in np.split(features, np.cumsum(images.lengths.numpy())[:-1])]
        return {self.heads: scale(np.stack(means))[:, None].astype(np.float16)}

    def weigh_regions(self, images: RegionBatch) -> np.ndarray:
        """Say that all regions of an image count alike."""
        return np.repeat(1 / images.lengths.numpy(), images.lengths.numpy()).astype(np.float32)

    def read(self, text: str) -> WordQuery:
        """Read a query."""
        found = content_words(text, self._ranker.dictionary)
        words = tuple(QueryWord(word, word in self._places) for word in found)
        read = tuple(place for place, word in enumerate(words) if word.known)[:MAX_WORDS]
        keys = tuple(self._places[found[place]] for place in read)
        chosen = np.array(keys, np.int64)
        return WordQuery(words, read, keys, self._ranker.weights[chosen], self._ranker.biases[chosen], True)


def _to_float16(encoded: Tensor) -> np.ndarray:
    return encoded.half().cpu().numpy()


def load_model(name: str, folder: Path, device: torch.device) -> IndexedModel:
    """Load a model from the folder of models of an index.

    Raises:
        UserError: it is not there, or is not what its name says.
    """
    if name == LOGISTIC_NAME:
        return LogisticModel(LogisticRanker.read(folder / LOGISTIC))
    checkpoint = Checkpoint.read(folder / f"{name}{SAFETENSORS}", REBUILD)
    stage = stages.find(name)
    model = checkpoint.build(stage).to(device)
    kind = StageWordModel if isinstance(model, WordRanker) else PairModel
    return kind(name, model, checkpoint.read_vocabulary(None), device)
