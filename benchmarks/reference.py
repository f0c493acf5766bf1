"""The plain twins: the straightforward way to do what this project does fast, with the same result.

The benchmarks and the tests compare with them; nothing else imports them. The models have the parameters of
the project's and compute on them as the definitions stand: images padded to the longest of the batch, every
region through every layer, features of words and images concatenated, one Python loop after the other.
"""

import base64
import csv
from collections.abc import Iterator, Mapping, Sequence
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
from kddcup.nn.encoder import ImageEncoder, scale_features
from kddcup.rank.metrics import ndcg
from kddcup.rank.predictions import Predictions
from kddcup.text.vocabulary import Vocabulary
from model1.model import Words
from multilabel.criterion import NEGATIVES

ROWS_PER_BATCH = 128
WEIGHTS = 100


def pad(images: RegionBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Pad images to the longest: features [B, L, D], boxes [B, L, 5], true where there is a region [B, L]."""
    lengths = images.lengths.tolist()
    features = nn.utils.rnn.pad_sequence(images.features.split(lengths), batch_first=True)
    boxes = nn.utils.rnn.pad_sequence(images.boxes.split(lengths), batch_first=True)
    real = torch.arange(features.shape[1]) < images.lengths[:, None]
    return features, boxes, real.to(features.device)


class PaddedEncoder(ImageEncoder):
    """Everything on [B, L, D], and both Linears of ``dense`` on every region."""

    def forward(self, images: RegionBatch) -> Tensor:
        """Encode B images: [B, 1+H, E]."""
        features, boxes, real = pad(images)
        features = scale_features(features.flatten(0, 1), self.feature_length).view_as(features)
        x = self.norm(features + self.box_encoding(boxes))  # [B, L, D]
        x = F.dropout(x, self.dropout, self.training)
        for attention, activation, ff in zip(self.encoders, self.activations, self.ffs, strict=True):
            attention.dropout = self.dropout
            turned = x.transpose(0, 1)  # [L, B, D]
            attended, _ = attention(turned, turned, turned, key_padding_mask=~real)
            x = ff(activation(x + attended.transpose(0, 1)))  # [B, L, D]
        weight = self.dense_summary(x).masked_fill(~real[:, :, None], -torch.inf).softmax(1)  # [B, L, 1]
        return (weight * self.dense(x)).sum(1).view(len(images), -1, self.width)


def _read(
    rnn: nn.GRU, vectors: Tensor, lengths: Tensor, initial: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run a GRU over padded word vectors [B, T, E]: its outputs, padded, and its final states."""
    packed = pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
    output, states = rnn(packed, initial)
    padded, _ = pad_packed_sequence(output, batch_first=True, total_length=vectors.shape[1])
    return padded, states


class TextEncoder(model1.model.TextEncoder):
    """Padded words, packed for the GRU by PyTorch, and padded again."""

    def forward(self, queries: TokenBatch) -> Words:
        """Encode B queries of at least one word each."""
        output, _ = _read(self.rnn, self.embed_normalized(queries.ids), queries.lengths)
        return Words(output.unflatten(2, (2, -1)).mean(2), self.embed(queries.ids), queries.mask)


class WordScoreModel(model1.model.ScoreModel):
    """The hidden state of each word concatenated with the image's caption head."""

    def weigh_words(self, words: Words, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [B, T] of words and their products with the label heads [B, T, H]."""
        caption = heads[:, :1].expand(-1, words.hidden.shape[1], -1)  # [B, T, E]
        weight = self.dense_summary(torch.cat([words.hidden, caption], 2)).squeeze(2)  # [B, T]
        weight = weight.masked_fill(~words.mask, -torch.inf).softmax(1)
        return weight, words.vectors @ heads[:, 1:].transpose(1, 2)

    def cross(self, words: Words, lengths: Tensor, heads: Tensor) -> Tensor:
        """Score each of Q queries with each of I images, [Q, I], by way of [Q, I, T, E/4 + E]."""
        queries, longest, _ = words.hidden.shape
        shape = (queries, len(heads), longest, -1)
        both = torch.cat([words.hidden[:, None].expand(shape), heads[None, :, :1].expand(shape)], 3)
        weight = self.dense_summary(both).squeeze(3)  # [Q, I, T]
        weight = weight.masked_fill(~words.mask[:, None], -torch.inf).softmax(2)
        score = torch.einsum("qte,ihe->qith", words.vectors, heads[:, 1:]).amax(3)  # [Q, I, T]
        return (weight * score).sum(2)


class WordImageModel(model1.model.WordImageModel):
    """model1 of plain parts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.query, self.item, self.score = TextEncoder(config), PaddedEncoder(config), WordScoreModel(config)

    def score_rows(self, queries: TokenBatch, images: RegionBatch) -> Tensor:
        """Score B rows, each with its own query and image: [B]."""
        return self.score(self.query(queries), self.item(images))


class SentenceScoreModel(model2.model.ScoreModel):
    """Padded words, packed for the GRU by PyTorch."""

    def forward(self, queries: TokenBatch, caption: Tensor) -> Tensor:
        """Score B pairs: logits [B]."""
        initial = caption.expand(4, *caption.shape).contiguous()
        _, states = _read(self.rnn, self.embed_normalized(queries.ids), queries.lengths, initial)
        return self.dense(states[-2:].mean(0)).squeeze(1)


class SentenceImageModel(model2.model.SentenceImageModel):
    """model2 of plain parts; all heads of an image, and a pass of the GRU for each kind of pair."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.item, self.score = PaddedEncoder(config), SentenceScoreModel(config)

    def forward(self, batch: Batch) -> model2.model.Logits:
        """Score B pairs, each image with its negative query, and each query with its negative image."""
        caption, negative_caption = self.item(batch.images)[:, 0], self.item(batch.negative_images)[:, 0]
        return model2.model.Logits(
            pair=self.score(batch.queries, caption),
            negative_query=self.score(batch.negative_queries, caption),
            negative_image=self.score(batch.queries, negative_caption),
        )

    def score_rows(self, queries: TokenBatch, images: RegionBatch) -> Tensor:
        """Score B rows, each with its own query and image: logits [B]."""
        return self.score(queries, self.item(images)[:, 0])


class MultiLabelClassifier(multilabel.model.MultiLabelClassifier):
    """Stage 2 of a plain encoder; pads go through all layers of the captioner."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.item = PaddedEncoder(config)

    def forward(self, batch: Batch) -> multilabel.model.Logits:
        """Tag B images, and caption each by its query: ``captions`` [B·(T+1), V], ``words`` 0 at pads."""
        heads, ids = self.item(batch.images), batch.queries.ids
        tags = (heads[:, 1:] @ self.embed.weight.T).amax(1)  # [B, V]
        targets = F.pad(ids, (0, 1))  # [B, T+1]
        targets[torch.arange(len(ids)), batch.queries.lengths] = self.end
        output, _ = self.rnn(self.embed(F.pad(ids, (1, 0), value=self.start)), heads[:, 0][None].contiguous())
        captions = self.caption(output) @ self.embed.weight.T  # [B, T+1, V]
        return multilabel.model.Logits(tags, captions.flatten(0, 1), targets.flatten())


MODELS = {
    "multilabel": MultiLabelClassifier,
    "model1": WordImageModel,
    "model2": SentenceImageModel,
}
"""By stage."""


def compute_tagging_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """The tagging loss of logits [B, V] and words [B, T], by σ of each word of the vocabulary, twice."""
    positive = torch.zeros_like(logits).scatter(1, ids, 1.0)
    positive[:, 0] = 0
    negative = 1 - positive
    negative[:, 0] = 0
    found = -(F.logsigmoid(logits) * positive).sum(1)
    wrong = -F.logsigmoid(-logits) * negative
    return (found + wrong.topk(min(NEGATIVES, logits.shape[1]), 1).values.sum(1)).mean()


def compute_multilabel_losses(logits: multilabel.model.Logits, batch: Batch) -> dict[str, Tensor]:
    """The losses of stage 2."""
    captioning = F.cross_entropy(logits.captions, logits.words, ignore_index=0, reduction="sum") / len(batch)
    return {"tagging": compute_tagging_loss(logits.tags, batch.queries.ids), "captioning": captioning}


def read_rows(path: Path) -> Iterator[tuple[dict[str, str], np.ndarray, np.ndarray]]:
    """Read a table's rows as text, with features [n, D] and scaled boxes [n, 5]."""
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
    """Write ``FOLDER/PRODUCT.npz`` for each row; later rows of a product write the same again."""
    folder.mkdir(parents=True, exist_ok=True)
    for row, features, boxes in read_rows(path):
        np.savez(folder / f"{row['product_id']}.npz", features=features, boxes=boxes)


def read_images(folder: Path, products: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Read padded features [B, L, D] and boxes [B, L, 5] of products, and the regions of each [B]."""
    images = []
    for product in products:
        with np.load(folder / f"{product}.npz") as arrays:
            images.append((torch.from_numpy(arrays["features"]), torch.from_numpy(arrays["boxes"])))
    features, boxes = (
        nn.utils.rnn.pad_sequence(parts, batch_first=True) for parts in zip(*images, strict=True)
    )
    return features, boxes, torch.tensor([len(parts) for _, parts in images])


@torch.no_grad()
def score_table(
    path: Path, model: WordImageModel | SentenceImageModel, vocabulary: Vocabulary, device: torch.device
) -> dict[str, list[float]]:
    """Score a table in batches of 128 rows, query and image anew for each: by query id, in its order."""
    scores: dict[str, list[float]] = {}
    rows = list(read_rows(path))
    for start in range(0, len(rows), ROWS_PER_BATCH):
        part = rows[start : start + ROWS_PER_BATCH]
        words = [torch.tensor(vocabulary.encode(row["query"])) for row, _, _ in part]
        queries = TokenBatch(
            nn.utils.rnn.pad_sequence(words, batch_first=True), torch.tensor(list(map(len, words)))
        )
        images = RegionBatch.from_images([(features, boxes) for _, features, boxes in part])
        found = model.score_rows(queries.to(device), images.to(device)).tolist()
        for (row, _, _), score in zip(part, found, strict=True):
            scores.setdefault(row["query_id"], []).append(score)
    return scores


def best_weight(
    scores1: Predictions, scores2: Predictions, answers: Mapping[str, list[int]]
) -> tuple[float, float]:
    """Find the best of 100 weights, and its mean NDCG@5."""
    best = (0.0, -1.0)
    for weight in np.linspace(0, 1, WEIGHTS).tolist():
        values = []
        for query, relevant in answers.items():
            others = dict(scores2[query])
            blended = [
                (weight * score + (1 - weight) * others[product], product)
                for product, score in scores1[query]
            ]
            ranked = [product for _, product in sorted(blended, key=lambda candidate: -candidate[0])]
            values.append(ndcg(ranked, relevant))
        mean = float(np.mean(values))
        if mean > best[1]:
            best = weight, mean
    return best
