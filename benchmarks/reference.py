"""The straightforward way to do what this project does, equal in result: what the benchmarks compare with.

Nothing else imports it. The models inherit the parameters of the project's and compute on them as the
definitions stand: images padded to the longest of the batch, every region through every layer, cross features
concatenated, the two vocabulary products apart, one Python loop after the other.
"""

import base64
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import model1.model
import model2.model
import multilabel.model
from kddcup.config import ModelConfig
from kddcup.data.batch import Batch, RegionBatch, TokenBatch, scale_boxes
from kddcup.nn.encoder import ImageEncoder
from kddcup.rank.metrics import ndcg
from kddcup.rank.predictions import Predictions

ROWS_PER_BATCH = 128
WEIGHTS = 100


def pad(images: RegionBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Features [B, L, D], boxes [B, L, 5] and the mask of real regions [B, L]."""
    lengths = images.lengths.tolist()
    features = nn.utils.rnn.pad_sequence(images.features.split(lengths), batch_first=True)
    boxes = nn.utils.rnn.pad_sequence(images.boxes.split(lengths), batch_first=True)
    return features, boxes, torch.arange(features.shape[1]) < images.lengths[:, None]


class PaddedEncoder(ImageEncoder):
    """Everything on [B, L, D], and ``dense`` on every region."""

    def forward(self, images: RegionBatch, heads: int | None = None) -> Tensor:
        """[B, 1+H, E]."""
        features, boxes, real = pad(images)
        x = F.dropout(self.norm(features + self.box_encoding(boxes)), self.dropout, self.training)
        attention, activation, ff = self.encoders[0], self.activations[0], self.ffs[0]
        attention.dropout = self.dropout
        turned = x.transpose(0, 1)  # [L, B, D]
        attended, _ = attention(turned, turned, turned, key_padding_mask=~real)
        x = ff(activation(x + attended.transpose(0, 1)))
        weight = self.dense_summary(x).masked_fill(~real[:, :, None], -torch.inf).softmax(1)
        return (weight * self.dense(x)).sum(1).view(len(images), -1, self.width)


def _encode_words(model: nn.Module, queries: TokenBatch, initial: Tensor | None = None) -> tuple:
    vectors = model.vectors(queries.ids)
    packed = pack_padded_sequence(vectors, queries.lengths, batch_first=True, enforce_sorted=False)
    return model.rnn(packed, initial)


class TextEncoder(model1.model.TextEncoder):
    """Padded words in, packed for the GRU, padded again."""

    def forward(self, queries: TokenBatch) -> tuple[Tensor, Tensor]:
        """Hidden [B, T, E/4] and word vectors [B, T, E]."""
        output, _ = _encode_words(self, queries)
        padded, _ = pad_packed_sequence(output, batch_first=True, total_length=queries.ids.shape[1])
        return padded.unflatten(2, (2, -1)).mean(2), self.embed(queries.ids)


class WordScoreModel(model1.model.ScoreModel):
    """The text and the image part of each word's feature concatenated."""

    def forward(self, hidden: Tensor, vectors: Tensor, mask: Tensor, heads: Tensor) -> Tensor:
        """[B] scores of pairs."""
        caption = heads[:, :1].expand(-1, hidden.shape[1], -1)
        weight = self.dense_summary(torch.cat([hidden, caption], 2)).squeeze(2)
        weight = weight.masked_fill(~mask, -torch.inf).softmax(1)
        score = (vectors @ heads[:, 1:].transpose(1, 2)).amax(2)
        return (weight * score).sum(1)

    def cross(self, hidden: Tensor, vectors: Tensor, places: Tensor, heads: Tensor) -> Tensor:
        """[Q, I] scores, by way of [Q, I, T, E/4 + E]."""
        queries, words, _ = hidden.shape
        mask = torch.zeros(queries * words, dtype=torch.bool).index_fill(0, places, True).view(queries, words)
        shape = (queries, len(heads), words, -1)
        both = torch.cat([hidden[:, None].expand(shape), heads[None, :, :1].expand(shape)], 3)
        weight = self.dense_summary(both).squeeze(3)  # [Q, I, T]
        weight = weight.masked_fill(~mask[:, None], -torch.inf).softmax(2)
        score = torch.einsum("qte,ihe->qith", vectors, heads[:, 1:]).amax(3)
        return (weight * score).sum(2)


def _halves(batch: Batch) -> tuple[tuple[TokenBatch, TokenBatch], tuple[RegionBatch, RegionBatch]]:
    """The rows' own queries and images, and their negatives."""
    count = len(batch.queries) // 2
    ids, lengths, images = batch.queries.ids, batch.queries.lengths, batch.images
    regions = int(images.lengths[:count].sum())
    return (
        (TokenBatch(ids[:count], lengths[:count]), TokenBatch(ids[count:], lengths[count:])),
        (
            RegionBatch(images.features[:regions], images.boxes[:regions], images.lengths[:count]),
            RegionBatch(images.features[regions:], images.boxes[regions:], images.lengths[count:]),
        ),
    )


class WordImageModel(model1.model.WordImageModel):
    """model1; the positives, then the negatives."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.query, self.item, self.score = TextEncoder(config), PaddedEncoder(config), WordScoreModel(config)
        self.item.freeze_context()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The four losses."""
        (queries, negative_queries), (images, negative_images) = _halves(batch)
        query, negative_query = self.query(queries), self.query(negative_queries)
        heads, negative_heads = self.item(images), self.item(negative_images)
        pair = self.score(*query, queries.mask, heads)
        cross = self.score.cross(*query, queries.places, heads)
        per_query, per_image = model1.model.contrastive_losses(cross)
        against_image = self.score(*query, queries.mask, negative_heads)
        against_query = self.score(*negative_query, negative_queries.mask, heads)
        return {
            "negative_image": model1.model.margin_loss(pair, against_image),
            "negative_query": model1.model.margin_loss(pair, against_query),
            "contrastive_query": per_query,
            "contrastive_image": per_image,
        }

    def score_rows(self, queries: TokenBatch, images: RegionBatch) -> Tensor:
        """[B] scores of rows, each with its own query and image."""
        return self.score(*self.query(queries), queries.mask, self.item(images))


class SentenceScoreModel(model2.model.ScoreModel):
    """Padded words in, packed for the GRU."""

    def forward(self, queries: TokenBatch, caption: Tensor) -> Tensor:
        """[B] logits of pairs."""
        initial = caption.expand(4, *caption.shape).contiguous()
        _, states = _encode_words(self, queries, initial)
        return self.dense(states[-2:].mean(0)).squeeze(1)


class SentenceImageModel(model2.model.SentenceImageModel):
    """model2; the positives, then the negatives."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.item, self.score = PaddedEncoder(config), SentenceScoreModel(config)
        self.item.freeze_context()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss."""
        (queries, negative_queries), (images, negative_images) = _halves(batch)
        caption, negative_caption = self.item(images)[:, 0], self.item(negative_images)[:, 0]
        logits = [
            self.score(queries, caption),
            self.score(negative_queries, caption),
            self.score(queries, negative_caption),
        ]
        labels = [torch.ones(len(queries)), torch.zeros(len(queries)), torch.zeros(len(queries))]
        return {"matching": F.binary_cross_entropy_with_logits(torch.cat(logits), torch.cat(labels))}

    def score_rows(self, queries: TokenBatch, images: RegionBatch) -> Tensor:
        """[B] logits of rows, each with its own query and image."""
        return self.score(queries, self.item(images)[:, 0])


class MultiLabelClassifier(multilabel.model.MultiLabelClassifier):
    """Stage 2; log σ of the whole vocabulary, pad words through all layers of the captioner."""

    def __init__(self, config: ModelConfig, start: int, end: int) -> None:
        super().__init__(config, start, end)
        self.item = PaddedEncoder(config)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Both losses."""
        heads, ids = self.item(batch.images), batch.queries.ids
        logits = (heads[:, 1:] @ self.embed.weight.T).amax(1)  # [B, V]
        positive = torch.zeros_like(logits).scatter(1, ids, 1.0)
        positive[:, 0] = 0
        negative = 1 - positive
        negative[:, 0] = 0
        found = -(F.logsigmoid(logits) * positive).sum(1)
        wrong = -F.logsigmoid(-logits) * negative
        tagging = (
            found + wrong.topk(min(multilabel.model.NEGATIVES, logits.shape[1]), 1).values.sum(1)
        ).mean()

        inputs = F.pad(ids, (1, 0), value=self.start)
        targets = F.pad(ids, (0, 1))
        targets[torch.arange(len(ids)), batch.queries.lengths] = self.end
        output, _ = self.rnn(self.embed(inputs), heads[:, 0][None].contiguous())
        words = self.caption(output) @ self.embed.weight.T  # [B, T+1, V]
        captioning = F.cross_entropy(words.flatten(0, 1), targets.flatten(), ignore_index=0, reduction="sum")
        return {"tagging": tagging, "captioning": captioning / len(ids)}


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> dict[str, Tensor]:
    """One step; gives the losses by name."""
    losses = model(batch)
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    return {name: loss.detach() for name, loss in losses.items()}


def read_rows(path: Path) -> Iterator[tuple[dict[str, str], np.ndarray, np.ndarray]]:
    """A table's rows as text, with features [n, D] and scaled boxes [n, 5]."""
    csv.field_size_limit(1 << 30)
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            count = int(row["num_boxes"])
            features, boxes = (
                np.frombuffer(base64.b64decode(row[name]), np.float32).reshape(count, -1)
                for name in ("features", "boxes")
            )
            yield row, features, scale_boxes(boxes, int(row["image_h"]), int(row["image_w"]))


def preprocess(path: Path, folder: Path) -> None:
    """``FOLDER/PRODUCT.npz`` of each row's product; later rows of a product say the same again."""
    folder.mkdir(parents=True, exist_ok=True)
    for row, features, boxes in read_rows(path):
        np.savez(folder / f"{row['product_id']}.npz", features=features, boxes=boxes)


def read_images(folder: Path, products: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Padded features [B, L, D] and boxes [B, L, 5] of products, and the regions of each [B]."""
    images = []
    for product in products:
        with np.load(folder / f"{product}.npz") as arrays:
            images.append((arrays["features"], arrays["boxes"]))
    longest = max(len(boxes) for _, boxes in images)
    features, boxes = (
        torch.stack(
            [torch.from_numpy(np.pad(one[i], ((0, longest - len(one[i])), (0, 0)))) for one in images]
        )
        for i in (0, 1)
    )
    return features, boxes, torch.tensor([len(boxes) for _, boxes in images])


@torch.no_grad()
def score_table(
    path: Path, model: WordImageModel | SentenceImageModel, encode_text: Callable[[str], list[int]]
) -> dict[str, list[float]]:
    """Scores by query id in the table's order, in batches of 128 rows; query and image anew for each."""
    scores: dict[str, list[float]] = {}
    rows = list(read_rows(path))
    for start in range(0, len(rows), ROWS_PER_BATCH):
        part = rows[start : start + ROWS_PER_BATCH]
        words = [torch.tensor(encode_text(row["query"])) for row, _, _ in part]
        queries = TokenBatch(
            nn.utils.rnn.pad_sequence(words, batch_first=True), torch.tensor([len(one) for one in words])
        )
        images = RegionBatch.from_images([(features, boxes) for _, features, boxes in part])
        for (row, _, _), score in zip(part, model.score_rows(queries, images).tolist(), strict=True):
            scores.setdefault(row["query_id"], []).append(score)
    return scores


def best_weight(
    scores1: Predictions, scores2: Predictions, answers: Mapping[str, list[int]]
) -> tuple[float, float]:
    """The best of 100 weights and its mean NDCG@5."""
    best = (0.0, -1.0)
    for weight in np.linspace(0, 1, WEIGHTS).tolist():
        reached = []
        for query, relevant in answers.items():
            others = dict(scores2[query])
            blended = [
                (weight * score + (1 - weight) * others[product], product)
                for product, score in scores1[query]
            ]
            ranked = [product for _, product in sorted(blended, key=lambda one: -one[0])]
            reached.append(ndcg(ranked, relevant))
        mean = float(np.mean(reached))
        if mean > best[1]:
            best = weight, mean
    return best
