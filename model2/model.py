"""model2: the whole sentence against the image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kddcup.config import ModelConfig
from kddcup.encoder import ImageEncoder
from kddcup.loader import Batch
from kddcup.regions import RegionBatch
from kddcup.text import TokenBatch
from kddcup.words import FrozenWords

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
        _, states = self.rnn(self.packed(queries), initial)  # [4, B, E]
        return self.dense(states[-DIRECTIONS:].mean(0)).squeeze(1)


class SentenceImageModel(nn.Module):
    """The parts ``item`` and ``score``, and the loss of a batch.

    Args:
        config: widths.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.item = ImageEncoder(config)
        self.score = ScoreModel(config)
        self.item.freeze_context()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Loss of B rows with a negative query and a negative image each: 3B logits."""
        count = len(batch.queries) // 2
        captions = self.encode_images(batch.images)[:, 0]  # [2B, E]
        rows = torch.arange(count)
        # The pairs, then each image with its negative query, then each query with its negative image.
        query = torch.cat([rows, rows + count, rows])
        image = torch.cat([rows, rows, rows + count])
        logits = self.score(_select(batch.queries, query), captions[image.to(captions.device)])
        labels = (torch.arange(3 * count, device=logits.device) < count).to(logits.dtype)
        return {"matching": F.binary_cross_entropy_with_logits(logits, labels)}

    def encode_images(self, images: RegionBatch) -> Tensor:
        """[B, 1, E], the caption heads."""
        return self.item(images, heads=1)

    def score_candidates(self, queries: TokenBatch, owner: Tensor, heads: Tensor) -> Tensor:
        """[C] logits of candidates with ``heads`` [C, 1, E] for their queries, ``owner`` [C]."""
        return self.score(_select(queries, owner), heads[:, 0])


def _select(queries: TokenBatch, index: Tensor) -> TokenBatch:
    return TokenBatch(queries.ids[index.to(queries.ids.device)], queries.lengths[index.cpu()])
