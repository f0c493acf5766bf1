"""What scoring asks of a stage's model."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from kddcup.data.batch import RegionBatch, TokenBatch
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
