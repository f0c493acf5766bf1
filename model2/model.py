"""model2: the whole sentence against the image."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kddcup.config import ModelConfig
from kddcup.data.batch import Batch, RegionBatch, TokenBatch
from kddcup.nn.encoder import ImageEncoder
from kddcup.nn.matcher import Matcher
from kddcup.nn.words import FrozenWords, Packing

GRU_LAYERS = 2
DIRECTIONS = 2
GRU_WEIGHTS = ("weight_ih", "bias_ih", "weight_hh", "bias_hh")


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

    def score_candidates(self, queries: TokenBatch, owner: Tensor, caption: Tensor) -> Tensor:
        """The same logits [C], without dropout, for caption heads [C, E] and their queries' indices [C].

        A query meets many images, and the GRU starts from the image: only the product of its words with the
        first layer's input weights is the query's own, and is computed once.
        """
        longest = queries.ids.shape[1]
        packing = Packing.of(queries.lengths[owner.cpu()], longest, caption.device)
        query, word = owner[packing.places // longest], packing.places % longest
        vectors = self.vectors(queries.ids)
        initial = caption[packing.order]
        data: Tensor | None = None  # [N, 2E] what the layer below says, of N words of candidates
        for layer in range(GRU_LAYERS):
            sides = []
            for suffix, step in (("", 1), ("_reverse", -1)):
                weights = [getattr(self.rnn, f"{kind}_l{layer}{suffix}") for kind in GRU_WEIGHTS]
                if data is None:
                    products = F.linear(vectors, *weights[:2])[query, word]  # [N, 3E]
                else:
                    products = F.linear(data, *weights[:2])
                sides.append(_recur(products, packing.batch_sizes.tolist(), initial, *weights[2:], step=step))
            data = torch.cat([output for output, _ in sides], 1)
        final = (sides[0][1] + sides[1][1]) / DIRECTIONS
        return self.dense(final[packing.inverse]).squeeze(1)


def _recur(
    products: Tensor, batch_sizes: list[int], initial: Tensor, weight: Tensor, bias: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """One direction of one layer of a GRU (Cho et al., 2014), as PyTorch defines it, from its input products.

    Args:
        products: [N, 3E] of packed words with the input weights, bias included: reset, update, new.
        batch_sizes: lists that reach a step; a sum of N.
        initial: [C, E] states, the longest list first.
        weight: [3E, E] of the state.
        bias: [3E] likewise.
        step: 1 reads forward, −1 backward.

    Returns:
        the states after each word [N, E], and after the last [C, E].
    """
    parts = products.split(batch_sizes)
    outputs: list[Tensor] = [initial] * len(parts)
    state = initial.clone()
    for i in range(len(parts))[::step]:
        count = batch_sizes[i]
        before = state[:count]
        reset, update, new = parts[i].chunk(3, 1)
        reset_state, update_state, new_state = F.linear(before, weight, bias).chunk(3, 1)
        fresh = torch.tanh(new + torch.sigmoid(reset + reset_state) * new_state)
        outputs[i] = torch.lerp(fresh, before, torch.sigmoid(update + update_state))
        state[:count] = outputs[i]
    return torch.cat(outputs), state


class Logits(NamedTuple):
    """Logits of B pairs, [B] each: matching, of the image's negative query, of the query's negative image."""

    pair: Tensor
    negative_query: Tensor
    negative_image: Tensor


class SentenceImageModel(Matcher):
    """The parts ``item`` and ``score``.

    Args:
        config: widths.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.item = ImageEncoder(config)
        self.score = ScoreModel(config)

    def forward(self, batch: Batch) -> Logits:
        """Score B pairs, each image with its negative query, and each query with its negative image."""
        caption, negative_caption = map(self._caption, (batch.images, batch.negative_images))  # [B, E] each
        # One pass of the GRU over all of them.
        queries = TokenBatch.cat([batch.queries, batch.negative_queries, batch.queries])
        return Logits(*self.score(queries, torch.cat([caption, caption, negative_caption])).chunk(3))

    def _caption(self, images: RegionBatch) -> Tensor:
        return self.item(images, heads=1)[:, 0]

    def encode_images(self, images: RegionBatch) -> Tensor:
        """Encode B images as their caption heads, [B, E]."""
        return self._caption(images)

    def score_candidates(self, queries: TokenBatch, owner: Tensor, images: Tensor) -> Tensor:
        """Score C candidates, of caption heads ``images`` [C, E]: logits."""
        return self.score.score_candidates(queries, owner, images)
