"""model2: the whole sentence against the image."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from kddcup.config import ModelConfig
from kddcup.data.batch import Batch, RegionBatch, TokenBatch
from kddcup.nn.captioner import Captioner
from kddcup.nn.encoder import ImageEncoder
from kddcup.nn.ranker import Ranker
from kddcup.nn.words import FrozenWords
from kddcup.text.vocabulary import Vocabulary

GRU_LAYERS = 2
DIRECTIONS = 2


class ScoreModel(FrozenWords):
    """A bidirectional GRU reads the query; all its initial states are the image's caption head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.rnn = nn.GRU(
            config.width,
            config.width,
            GRU_LAYERS,
            batch_first=True,
            bidirectional=True,
            dropout=config.dropout,
        )
        self.dense = nn.Linear(config.width, 1)

    def forward(self, queries: TokenBatch, caption: Tensor) -> Tensor:
        """Score B pairs of a query of at least one word and an image's caption head [B, E]: logits [B]."""
        initial = caption.expand(GRU_LAYERS * DIRECTIONS, *caption.shape).contiguous()
        packed, _ = self.pack(queries)
        _, states = self.rnn(packed, initial)  # [4, B, E]
        return self.dense(states[-DIRECTIONS:].mean(0)).squeeze(1)


class CaptionScoreModel(ScoreModel):
    """How probable the captioner finds the query, times a learned scale, and a correction, which starts at 0.

    The correction is what a :class:`ScoreModel` says.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.captioner = Captioner(config)
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.zeros_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def forward(self, queries: TokenBatch, caption: Tensor) -> Tensor:
        """Score B pairs of a query and an image's caption head [B, E]: logits [B]."""
        probability = self.captioner.score_queries(self.embed.weight, caption, queries)
        return self.scale * probability + super().forward(queries, caption)


class Logits(NamedTuple):
    """Logits of B pairs, [B] each: matching, of the image's negative query, of the query's negative image."""

    pair: Tensor
    negative_query: Tensor
    negative_image: Tensor


class SentenceImageModel(Ranker):
    """The parts ``item`` and ``score``.

    Args:
        config: widths, and whether the score has stage 2's captioner in it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.reads_unknown = not config.captioner
        self.item = ImageEncoder(config)
        self.score = CaptionScoreModel(config) if config.captioner else ScoreModel(config)

    def forward(self, batch: Batch) -> Logits:
        """Score B pairs, each image with its negative query, and each query with its negative image."""
        caption = self.encode_images(batch.images)  # [B, E]
        negative_caption = self.encode_images(batch.negative_images)  # [B, E]
        # One pass of the GRU over all of them.
        queries = TokenBatch.cat([batch.queries, batch.negative_queries, batch.queries])
        return Logits(*self.score(queries, torch.cat([caption, caption, negative_caption])).chunk(3))

    def encode_images(self, images: RegionBatch) -> Tensor:
        """Encode B images as their caption heads, [B, E]."""
        return self.item(images, heads=1)[:, 0]

    def score_candidates(self, queries: TokenBatch, owner: Tensor, images: Tensor) -> Tensor:
        """Score C candidates, of caption heads ``images`` [C, E]: logits.

        The GRU starts from the image, so that a query is read anew for each of its candidates.
        """
        return self.score(queries.take(owner), images)

    def read_query(self, vocabulary: Vocabulary, text: str) -> list[int]:
        """The token ids of a query, with a captioner without the unknown, which stage 2 does not read."""
        tokens = super().read_query(vocabulary, text)
        return [token for token in tokens if self.reads_unknown or token != vocabulary.unknown]
