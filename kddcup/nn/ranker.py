"""What scoring asks of a stage's model."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kddcup.data.batch import RegionBatch, TokenBatch
from kddcup.nn.encoder import ImageEncoder
from kddcup.text.vocabulary import Vocabulary


class Ranker(nn.Module, ABC):
    """A model that scores queries against images.

    What it makes of images is its own business. Scoring encodes images in batches, joins the batches, and
    takes each candidate's image; the defaults suit a tensor with one row per image.
    """

    @abstractmethod
    def encode_images(self, images: RegionBatch) -> Any:
        """Encode B images; done once for each image of a table."""

    @abstractmethod
    def score_candidates(self, queries: TokenBatch, owner: Tensor, images: Any) -> Tensor:
        """Score C candidates.

        Args:
            queries: of at least one word each.
            owner: [C] which of the queries a candidate is for.
            images: the C encoded images.

        Returns:
            [C].
        """

    def join_images(self, batches: list[Any]) -> Any:
        """Join batches of encoded images in their order."""
        return torch.cat(batches)

    def take_images(self, images: Any, index: Tensor) -> Any:
        """Take the encoded images at the places ``index`` [C], repeats allowed."""
        return images[index]

    def read_query(self, vocabulary: Vocabulary, text: str) -> list[int]:
        """The token ids of a query that the model reads."""
        return vocabulary.encode(text)


class WordWeights(NamedTuple):
    """What a query's side of the weights of its T words comes to.

    The weight of word t against an image is the softmax over t of ``output`` · PReLU(``text``[t] + image),
    with an image's side of S numbers, which :meth:`WordRanker.weigh_images` gives.

    ``text`` [T, S]; ``slope`` [1] of the PReLU; ``output`` [S].
    """

    text: Tensor
    slope: Tensor
    output: Tensor


class WordRanker(Ranker):
    """A ranker that scores an image by its label heads, word by word.

    With s(w, i) the best product of the vector of word w with a label head of image i, the score of a query
    is the sum over its words of weight · s, or of weight · log σ(s); without weights, each counts once.
    So s, which no other word and no other image bears on, can be kept for a catalogue.

    An image is encoded as its heads, [1+H, E] each, of which the first is the caption head.

    Attributes:
        item: encodes images.
        log_sigmoid: whether a word's score is log σ(s), and not s itself.
    """

    item: ImageEncoder
    log_sigmoid: bool

    def encode_images(self, images: RegionBatch) -> Tensor:
        """Encode B images as their heads, [B, 1+H, E]."""
        return self.item(images)

    @abstractmethod
    def embed_words(self, ids: Tensor) -> Tensor:
        """Look up the vectors [W, E] of words [W] that heads are multiplied with."""

    def weigh_images(self, heads: Tensor) -> Tensor:
        """Give the side of the weights [B, S] of images of ``heads`` [B, 1+H, E]; none by default, S = 0."""
        return heads.new_zeros(len(heads), 0)

    def weigh_words(self, queries: TokenBatch) -> WordWeights | None:
        """Give the side of the weights of the words of a batch of one query; by default they have none."""
        return None
