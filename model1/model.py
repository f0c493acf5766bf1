"""model1: each word of the query against the image, the words weighted."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kddcup.config import ModelConfig
from kddcup.data.batch import Batch, RegionBatch, TokenBatch, place_words
from kddcup.nn.encoder import ImageEncoder
from kddcup.nn.ranker import WordRanker, WordWeights
from kddcup.nn.words import FrozenWords
from kddcup.text.vocabulary import Vocabulary

GRU_LAYERS = 2
SUMMARY_WIDTH = 512
CROSS_ELEMENTS = 1 << 24
"""Numbers in a chunk of the [words, images, 512] part of the cross matrix."""


class Words(NamedTuple):
    """B queries of at most T words.

    ``hidden`` [B, T, E/4] each word in the context of its query; ``vectors`` [B, T, E] before their norm;
    ``mask`` [B, T] true where there is a word.
    """

    hidden: Tensor
    vectors: Tensor
    mask: Tensor

    def take(self, index: Tensor) -> "Words":
        """The queries at the places ``index`` [C]."""
        return Words(*(part[index] for part in self))

    def halve(self) -> tuple["Words", "Words"]:
        """The first half of the queries, and the second."""
        first, second = zip(*(part.chunk(2) for part in self), strict=True)
        return Words(*first), Words(*second)


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

    def forward(self, queries: TokenBatch) -> Words:
        """Encode B queries of at least one word each."""
        packed, packing = self.pack(queries)
        output, _ = self.rnn(packed)
        words = output.data.unflatten(1, (2, -1)).mean(1)  # [N, E/4]
        flat = words.new_zeros(queries.ids.numel(), words.shape[1]).index_copy(0, packing.places, words)
        hidden = flat.view(*queries.ids.shape, -1)  # [B, T, E/4]
        return Words(hidden, self.embed(queries.ids), queries.mask)


class ScoreModel(nn.Module):
    """A query's words against an image's heads.

    The weight of a word is a softmax over the query's words of ``dense_summary`` on [hidden of the word;
    caption head]; the word's score is its best product with a label head, or log σ of it where the model
    starts as a tagger: then all words have the same weight at the start, and it ranks as stage 2's tags do.

    The first Linear of ``dense_summary`` is a sum of a text part and an image part: each is computed once
    and added, so that no [pairs, words, E/4 + E] tensor is built. Its plain twin, which builds it, is
    :class:`benchmarks.reference.WordScoreModel`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense_summary = nn.Sequential(
            nn.Linear(config.width // 4 + config.width, SUMMARY_WIDTH),
            nn.PReLU(),
            nn.Linear(SUMMARY_WIDTH, 1),
        )
        self.log_sigmoid = config.tagger
        if config.tagger:
            nn.init.zeros_(self.dense_summary[2].weight)

    def weigh_images(self, caption: Tensor) -> Tensor:
        """Give what caption heads [B, E] add to the inner layer, [B, 512]."""
        return F.linear(caption, self.dense_summary[0].weight[:, -caption.shape[-1] :])

    def weigh_text(self, hidden: Tensor) -> WordWeights:
        """Give what words [T, E/4] add to the inner layer, and what follows it; the last bias cancels out."""
        first, activation, last = self.dense_summary
        text = F.linear(hidden, first.weight[:, : hidden.shape[-1]], first.bias)
        return WordWeights(text, activation.weight, last.weight[0])

    def forward(self, words: Words, heads: Tensor) -> Tensor:
        """Score B pairs of a query and an image's heads [B, 1+H, E]: [B]."""
        weight, scores = self.weigh_words(words, heads)  # [B, T] and [B, T, H]
        return (weight * scores.amax(2)).sum(1)

    def weigh_words(self, words: Words, heads: Tensor) -> tuple[Tensor, Tensor]:
        """What the scores of B pairs are made of; arguments as in :meth:`forward`.

        Returns:
            weight: [B, T] of each word, 0 where there is none.
            scores: [B, T, H] of each word by each label head.
        """
        text = self.weigh_text(words.hidden).text  # [B, T, 512]
        image = self.weigh_images(heads[:, 0])  # [B, 512]
        weight = self.dense_summary[1:](text + image[:, None]).squeeze(2)  # [B, T]
        weight = weight.float().masked_fill(~words.mask, -torch.inf).softmax(1)
        return weight, self._score_words(words.vectors @ heads[:, 1:].transpose(1, 2))

    def cross(self, words: Words, lengths: Tensor, heads: Tensor) -> Tensor:
        """Score each query with each image; runs over the W words that there are, and none of the padding.

        Args:
            words: of Q queries.
            lengths: [Q] their numbers of words, in CPU memory.
            heads: [I, 1+H, E] of I images.

        Returns:
            [Q, I].
        """
        queries, longest, _ = words.hidden.shape
        images = len(heads)
        places = place_words(lengths, longest).to(heads.device, non_blocking=True)  # [W]
        text = self.weigh_text(words.hidden.flatten(0, 1)[places]).text  # [W, 512]
        image = self.weigh_images(heads[:, 0])  # [I, 512]
        chunks = text.split(max(1, CROSS_ELEMENTS // image.numel()))
        if len(chunks) == 1:
            weight = self._cross_weight(text, image)  # [W, I]
        else:
            # Made again in the backward pass instead of kept.
            parts = [checkpoint(self._cross_weight, part, image, use_reentrant=False) for part in chunks]
            weight = torch.cat(parts)  # [W, I]
        products = words.vectors.flatten(0, 1)[places] @ heads[:, 1:].flatten(0, 1).T  # [W, I·H]
        score = self._score_words(products.view(len(places), images, -1).amax(2))  # [W, I]
        padded = weight.new_full((queries * longest, images), -torch.inf, dtype=torch.float32)
        padded = padded.index_copy(0, places, weight.float())  # [Q·T, I]
        share = padded.view(queries, longest, images).softmax(1).flatten(0, 1)[places]  # [W, I]
        weighted = share * score
        return weighted.new_zeros(queries, images).index_add(0, places // longest, weighted)

    def _score_words(self, products: Tensor) -> Tensor:
        return F.logsigmoid(products.float()) if self.log_sigmoid else products

    def _cross_weight(self, text: Tensor, image: Tensor) -> Tensor:
        """[W, I] weights before their softmax, by way of [W, I, 512]."""
        return self.dense_summary[1:](text[:, None] + image).squeeze(2)


class Scores(NamedTuple):
    """Scores of B pairs, [B] each, and of every query with every image of the pairs, ``cross`` [B, B]."""

    pair: Tensor
    negative_image: Tensor
    negative_query: Tensor
    cross: Tensor


class WordImageModel(WordRanker):
    """The parts ``query``, ``item`` and ``score``.

    Args:
        config: widths.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.log_sigmoid = config.tagger
        self.query = TextEncoder(config)
        self.item = ImageEncoder(config)
        self.score = ScoreModel(config)

    def read_query(self, vocabulary: Vocabulary, text: str) -> list[int]:
        """The token ids of a query; with the scores of a tagger without the unknown, as stage 2 reads it."""
        tokens = super().read_query(vocabulary, text)
        return [token for token in tokens if not self.log_sigmoid or token != vocabulary.unknown]

    def forward(self, batch: Batch) -> Scores:
        """Score B pairs, each query with its negative image, each image with its negative query, and all."""
        # In one pass each: two take 12 % longer a step, measured at both sizes on a CPU.
        words = self.query(TokenBatch.cat([batch.queries, batch.negative_queries]))  # of 2B queries
        heads = self.item(RegionBatch.cat([batch.images, batch.negative_images]))  # [2B, 1+H, E]
        query, negative_query = words.halve()
        image, negative_image = heads.chunk(2)  # [B, 1+H, E] each
        return Scores(
            pair=self.score(query, image),
            negative_image=self.score(query, negative_image),
            negative_query=self.score(negative_query, image),
            cross=self.score.cross(query, batch.queries.lengths, image),
        )

    def embed_words(self, ids: Tensor) -> Tensor:
        """Look up the vectors of words [W], before their norm: [W, E]."""
        return self.query.embed(ids)

    def weigh_images(self, heads: Tensor) -> Tensor:
        """Give what images of ``heads`` [B, 1+H, E] add to the inner layer of the weights, [B, 512]."""
        return self.score.weigh_images(heads[:, 0])

    def weigh_words(self, queries: TokenBatch) -> WordWeights:
        """Give the side of the weights of the T words of a batch of one query."""
        return self.score.weigh_text(self.query(queries).hidden[0])

    def score_candidates(self, queries: TokenBatch, owner: Tensor, images: Tensor) -> Tensor:
        """Score C candidates, of heads ``images`` [C, 1+H, E]."""
        return self.score(self.query(queries).take(owner), images)

    def explain_candidates(
        self, queries: TokenBatch, owner: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`score_candidates` sums up, [C, T] each.

        Returns:
            weight: of each word.
            score: its best by a label head.
            head: which one that is, from 0.
        """
        weight, scores = self.score.weigh_words(self.query(queries).take(owner), images)
        return weight, *scores.max(2)
