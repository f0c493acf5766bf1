"""The captioner: what a query is likely to be, given an image."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kddcup.config import ModelConfig
from kddcup.data.batch import TokenBatch
from kddcup.nn.words import Packing

LOGITS = 1 << 24
"""Logits that are made at a time where none is kept."""


class NextWords(NamedTuple):
    """What the captioner says at each of N steps of B captions.

    ``said`` [N, E], whose products with the word vectors are the logits of the next word; ``words`` [N] which
    word it is; ``owner`` [N] which of the captions a step is of.
    """

    said: Tensor
    words: Tensor
    owner: Tensor


class Captioner(nn.Module):
    """A GRU whose first state is an image's caption head predicts a query word by word.

    It reads start, words, and is to say words, end. The word vectors [V, E], which it does not own, are its
    input and, by their product with what it says, the logits of the next word.

    Args:
        config: widths, and the words that begin and end a caption.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.start, self.end = config.start, config.end
        self.rnn = nn.GRU(config.width, config.width, batch_first=True)
        self.caption = nn.Sequential(
            nn.Linear(config.width, config.width),
            nn.PReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.width, config.width),
        )

    def predict_words(self, vectors: Tensor, caption_head: Tensor, queries: TokenBatch) -> NextWords:
        """Predict each word of B captions from those before it; pads take no part.

        Args:
            vectors: [V, E] of the words.
            caption_head: [B, E] first states.
            queries: the captions.
        """
        ids, lengths = queries.ids, queries.lengths + 1
        inputs = F.pad(ids, (1, 0), value=self.start)  # [B, T+1]
        last = (torch.arange(inputs.shape[1]) == queries.lengths[:, None]).to(ids.device, non_blocking=True)
        targets = F.pad(ids, (0, 1)).masked_fill(last, self.end)  # [B, T+1]
        packing = Packing.of(lengths, inputs.shape[1], ids.device)
        words = F.embedding(inputs.flatten()[packing.places], vectors)  # [N, E]
        hidden, _ = self.rnn(packing.pack(words), caption_head[None].contiguous())
        owner = packing.places // inputs.shape[1]
        return NextWords(self.caption(hidden.data), targets.flatten()[packing.places], owner)

    def score_queries(self, vectors: Tensor, caption_head: Tensor, queries: TokenBatch) -> Tensor:
        """log p(query | image) of B pairs: the sum over words and end of the log softmax over all V words.

        Args:
            vectors: [V, E] of the words.
            caption_head: [B, E] of the images.
            queries: B.

        Returns:
            [B] float32.
        """
        said, words, owner = self.predict_words(vectors, caption_head, queries)
        # The logits of a table's candidates would fill gigabytes.
        rows = max(1, LOGITS // len(vectors))
        lost = torch.cat(
            [
                F.cross_entropy((part @ vectors.T).float(), target, reduction="none")
                for part, target in zip(said.split(rows), words.split(rows), strict=True)
            ]
        )  # [N]
        return lost.new_zeros(len(queries)).index_add(0, owner, -lost)
