"""model1: each word of the query against the image, the words weighted."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kddcup.config import ModelConfig
from kddcup.encoder import ImageEncoder
from kddcup.loader import Batch
from kddcup.regions import RegionBatch
from kddcup.text import TokenBatch
from kddcup.words import FrozenWords

MARGIN = 0.9
GRU_LAYERS = 2
SUMMARY_WIDTH = 512
CROSS_ELEMENTS = 1 << 24
"""Numbers in a chunk of the [words, images, 512] part of the cross matrix."""


class TextEncoder(FrozenWords):
    """Each word in the context of its query: a bidirectional GRU, its directions averaged."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.rnn = nn.GRU(
            config.width,
            config.width // 4,
            GRU_LAYERS,
            batch_first=True,
            bidirectional=True,
            dropout=config.dropout,
        )

    def forward(self, queries: TokenBatch) -> tuple[Tensor, Tensor]:
        """Encode queries of at least one word.

        Returns:
            hidden: [B, T, E/4].
            vectors: [B, T, E] the word vectors before their norm.
        """
        packed, packing = self.packed(queries)
        output, _ = self.rnn(packed)
        words = output.data.unflatten(1, (2, -1)).mean(1)  # [N, E/4]
        flat = words.new_zeros(queries.ids.numel(), words.shape[1]).index_copy(0, packing.places, words)
        return flat.view(*queries.ids.shape, -1), self.embed(queries.ids)


class ScoreModel(nn.Module):
    """A query's words against an image's heads.

    The weight of a word is a softmax over the query's words of ``dense_summary`` on [hidden of the word;
    caption head]; the word's score is its best product with a label head.

    The first Linear of ``dense_summary`` is a sum of a text part and an image part: each is computed once
    and added, so that no [pairs, words, E/4 + E] tensor is built.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense_summary = nn.Sequential(
            nn.Linear(config.width // 4 + config.width, SUMMARY_WIDTH),
            nn.PReLU(),
            nn.Linear(SUMMARY_WIDTH, 1),
        )

    def _parts(self, hidden: Tensor, caption: Tensor) -> tuple[Tensor, Tensor]:
        """What words [.., E/4] and captions [.., E] each give to the inner layer, [.., 512]."""
        first = self.dense_summary[0]
        of_text, of_image = first.weight.split([hidden.shape[-1], caption.shape[-1]], dim=1)
        return F.linear(hidden, of_text, first.bias), F.linear(caption, of_image)

    def forward(self, hidden: Tensor, vectors: Tensor, mask: Tensor, heads: Tensor) -> Tensor:
        """Score B pairs; arguments as in :meth:`words`.

        Returns:
            [B].
        """
        weight, products = self.words(hidden, vectors, mask, heads)
        return (weight * products.amax(2)).sum(1)

    def words(self, hidden: Tensor, vectors: Tensor, mask: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        """What the scores of B pairs are made of.

        Args:
            hidden: [B, T, E/4].
            vectors: [B, T, E].
            mask: [B, T] true where there is a word.
            heads: [B, 1+H, E].

        Returns:
            weight: [B, T] of each word, 0 where there is none.
            products: [B, T, H] of each word with each label head.
        """
        text, image = self._parts(hidden, heads[:, 0])
        weight = self.dense_summary[1:](text + image[:, None]).squeeze(2)  # [B, T]
        weight = weight.float().masked_fill(~mask, -torch.inf).softmax(1)
        return weight, vectors @ heads[:, 1:].transpose(1, 2)

    def cross(self, hidden: Tensor, vectors: Tensor, places: Tensor, heads: Tensor) -> Tensor:
        """Score every query with every image.

        Args:
            hidden: [Q, T, E/4].
            vectors: [Q, T, E].
            places: [W] where in the Q·T the W words of all queries stand, ascending.
            heads: [I, 1+H, E].

        Returns:
            [Q, I].
        """
        queries, longest, _ = hidden.shape
        images = len(heads)
        text, image = self._parts(hidden.flatten(0, 1)[places], heads[:, 0])  # [W, 512] and [I, 512]
        chunks = text.split(max(1, CROSS_ELEMENTS // image.numel()))
        if len(chunks) == 1:
            weight = self._cross_weight(text, image)  # [W, I]
        else:
            # Made again in the backward pass instead of kept.
            parts = [checkpoint(self._cross_weight, part, image, use_reentrant=False) for part in chunks]
            weight = torch.cat(parts)
        weight = weight.float()
        products = vectors.flatten(0, 1)[places] @ heads[:, 1:].flatten(0, 1).T
        score = products.view(len(places), images, -1).amax(2)  # [W, I]
        padded = weight.new_full((queries * longest, images), -torch.inf).index_copy(0, places, weight)
        share = padded.view(queries, longest, images).softmax(1).flatten(0, 1)[places]  # [W, I]
        weighted = share * score
        return weighted.new_zeros(queries, images).index_add(0, places // longest, weighted)

    def _cross_weight(self, text: Tensor, image: Tensor) -> Tensor:
        """[W, I] weights before their softmax.

        PReLU(x) is slope · x + (1 − slope) · ReLU(x): of the first part the sum over the inner layer is a sum
        of a text part and an image part too, so that only a ReLU has to run on [W, I, 512].
        """
        _, activation, last = self.dense_summary
        slope, inner = activation.weight, last.weight[0]
        linear = (text @ inner)[:, None] + image @ inner
        rectified = F.relu(text[:, None] + image) @ inner
        return slope * linear + (1 - slope) * rectified + last.bias


class WordImageModel(nn.Module):
    """The parts ``query``, ``item`` and ``score``, and the losses of a batch.

    Args:
        config: widths.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.query = TextEncoder(config)
        self.item = ImageEncoder(config)
        self.score = ScoreModel(config)
        self.item.freeze_context()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of B rows with a negative query and a negative image each."""
        count = len(batch.queries) // 2
        hidden, vectors = self.query(batch.queries)
        mask = batch.queries.mask
        heads = self.item(batch.images)
        query = (hidden[:count], vectors[:count], mask[:count])
        pair = self.score(*query, heads[:count])
        negative_image = self.score(*query, heads[count:])
        negative_query = self.score(hidden[count:], vectors[count:], mask[count:], heads[:count])
        places = TokenBatch(batch.queries.ids[:count], batch.queries.lengths[:count]).places
        cross = self.score.cross(hidden[:count], vectors[:count], places, heads[:count])
        per_query, per_image = contrastive_losses(cross)
        return {
            "negative_image": margin_loss(pair, negative_image),
            "negative_query": margin_loss(pair, negative_query),
            "contrastive_query": per_query,
            "contrastive_image": per_image,
        }

    def encode_images(self, images: RegionBatch) -> Tensor:
        """[B, 1+H, E]."""
        return self.item(images)

    def score_candidates(self, queries: TokenBatch, owner: Tensor, heads: Tensor) -> Tensor:
        """[C] scores of candidates with ``heads`` [C, 1+H, E] for their queries, ``owner`` [C]."""
        hidden, vectors = self.query(queries)
        return self.score(hidden[owner], vectors[owner], queries.mask[owner], heads)

    def explain_candidates(
        self, queries: TokenBatch, owner: Tensor, heads: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`score_candidates` sums up, [C, T] each.

        Returns:
            weight: of each word.
            score: its best product with a label head.
            head: which one that is, from 0.
        """
        hidden, vectors = self.query(queries)
        weight, products = self.score.words(hidden[owner], vectors[owner], queries.mask[owner], heads)
        return weight, *products.max(2)


def margin_loss(pair: Tensor, negative: Tensor) -> Tensor:
    """Margin ranking, mean over the batch: how far the pair is from being 0.9 above the negative."""
    return F.relu(MARGIN - pair + negative).mean()


def contrastive_losses(cross: Tensor) -> tuple[Tensor, Tensor]:
    """Max-violation contrastive loss (Faghri et al., 2018, "VSE++"), margin 0.9.

    Args:
        cross: [B, B] scores of each query with each image; the pairs are on the diagonal.

    Returns:
        per query and per image: how far the hardest other in the batch comes within the margin, batch means.
    """
    pair = cross.diagonal()
    violation = F.relu(MARGIN - pair[:, None] + cross), F.relu(MARGIN - pair + cross)
    own = torch.eye(len(cross), dtype=torch.bool, device=cross.device)
    per_query, per_image = (one.masked_fill(own, 0) for one in violation)
    return per_query.amax(1).mean(), per_image.amax(0).mean()
