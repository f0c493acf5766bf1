"""Made-up inputs of the competition's shape and the published models' sizes."""

from pathlib import Path

import numpy as np
import torch

from kddcup.config import ModelConfig
from kddcup.data.batch import Batch, RegionBatch, TokenBatch, scale_boxes
from kddcup.io.ragged import Ragged
from kddcup.rank.predictions import Predictions
from kddcup.table.rows import COLUMNS, encode_base64
from kddcup.table.table import Table
from kddcup.text.vocabulary import SPECIALS, Vocabulary

MOST_REGIONS = 40
FIRST_WORD = 1000
"""BERT's first ids are of special tokens, letters and digits."""
TABLE_WORDS = 500
"""Different words in a table of :func:`write_table`."""
NEW_PRODUCTS = 0.62
"""The share of rows whose product is new: 9,177 of valid's 14,720."""


def draw_region_counts(rng: np.random.Generator, images: int) -> np.ndarray:
    """Draw [images] counts whose mean is 4.0; the competition's frequencies within 0.02."""
    return np.minimum(MOST_REGIONS, 1 + rng.negative_binomial(1.4, 1.4 / 4.4, images))


def draw_word_counts(rng: np.random.Generator, queries: int) -> np.ndarray:
    """Draw [queries] counts whose mean is 4: the competition's content words, some of them in pieces."""
    return 2 + rng.poisson(2, queries)


def draw_features(rng: np.random.Generator, regions: int, dim: int) -> np.ndarray:
    """Draw [regions, dim] float32, half of it zero and the rest positive; float16 holds them exactly."""
    drawn = rng.integers(-2048, 2048, (regions, dim), np.int16)
    return np.maximum(drawn, 0).astype(np.float32) / 1024


def draw_boxes(rng: np.random.Generator, regions: int) -> np.ndarray:
    """Draw [regions, 4] float32 in an image of 800 × 800 pixels."""
    corner = rng.uniform(0, 400, (regions, 2))
    return np.concatenate([corner, corner + rng.uniform(50, 400, (regions, 2))], 1).astype(np.float32)


def draw_images(rng: np.random.Generator, count: int, dim: int) -> RegionBatch:
    """Draw a batch of ``count`` images."""
    lengths = draw_region_counts(rng, count)
    total = int(lengths.sum())
    return RegionBatch(
        torch.from_numpy(draw_features(rng, total, dim)),
        torch.from_numpy(scale_boxes(draw_boxes(rng, total), 800, 800)),
        torch.from_numpy(lengths),
    )


def draw_queries(rng: np.random.Generator, count: int, vocabulary: int) -> TokenBatch:
    """Draw a batch of ``count`` queries."""
    lengths = draw_word_counts(rng, count)
    words = rng.integers(min(FIRST_WORD, vocabulary // 2), vocabulary, lengths.sum())
    tokens = Ragged(words, np.concatenate([[0], np.cumsum(lengths)]))
    return TokenBatch.from_ragged(tokens, np.arange(count))


def draw_batch(config: ModelConfig, rows: int, negatives: bool, seed: int = 0) -> Batch:
    """Draw what a training step takes; ``negatives`` adds a negative query and image to each row."""
    rng = np.random.default_rng(seed)

    def draw_pairs() -> tuple[TokenBatch, RegionBatch]:
        return draw_queries(rng, rows, config.vocabulary), draw_images(rng, rows, config.region_dim)

    queries, images = draw_pairs()
    if not negatives:
        return Batch(queries, images, np.arange(rows))
    negative_queries, negative_images = draw_pairs()
    return Batch(queries, images, np.arange(2 * rows), negative_queries, negative_images)


def write_table(path: Path, rows: int, dim: int, candidates: int = 30, seed: int = 0) -> None:
    """Write a table of so many rows; a query has 30 candidates, and some products come again."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    known: list[list[str]] = []
    with open(path, "w", encoding="utf-8") as file:
        file.write("\t".join(COLUMNS) + "\n")
        for row in range(rows):
            query, place = divmod(row, candidates)
            if place == 0:
                words = rng.integers(0, TABLE_WORDS, int(draw_word_counts(rng, 1)[0]))
                text = " ".join(f"w{word}" for word in words)
                listed: set[int] = set()
            product = int(rng.integers(max(1, len(known))))
            if rng.random() < NEW_PRODUCTS or product in listed or not known:
                product, count = len(known), int(draw_region_counts(rng, 1)[0])
                arrays = (draw_boxes(rng, count), draw_features(rng, count, dim), rng.integers(0, 33, count))
                known.append([str(product), "800", "800", str(count), *map(encode_base64, arrays)])
            listed.add(product)
            file.write("\t".join([*known[product], text, str(query)]) + "\n")


def read_contents(table: Path) -> tuple[RegionBatch, TokenBatch, int]:
    """Read a table's distinct images and queries, and count the words of the queries of all rows."""
    images, texts, words, vocabulary = {}, {}, 0, build_vocabulary()
    for row in Table(table).rows("count"):
        images[row.product_id] = (row.features, scale_boxes(row.boxes, row.image_h, row.image_w))
        texts[row.query_id] = vocabulary.encode(row.query)
        words += len(texts[row.query_id])
    tokens = Ragged.from_lists(texts.values(), np.int64)
    queries = TokenBatch.from_ragged(tokens, np.arange(len(texts)))
    return RegionBatch.from_images(images.values()), queries, words


def build_vocabulary() -> Vocabulary:
    """Build the vocabulary of the queries of :func:`write_table`."""
    return Vocabulary("lexicon", [*SPECIALS, *(f"w{word}" for word in range(TABLE_WORDS))])


def draw_predictions(
    queries: int = 496, seed: int = 0
) -> tuple[Predictions, Predictions, dict[str, list[int]]]:
    """Draw the scores of two models, and answers; by default for 496 queries and 14,720 candidates."""
    rng = np.random.default_rng(seed)
    ids = [str(query) for query in range(queries)]
    counts = np.where(np.arange(queries) < 14_720 - 29 * 496, 30, 29).tolist()
    answers = {query: rng.choice(29, 6, replace=False).tolist() for query in ids}

    def draw_scores() -> Predictions:
        predictions = {}
        for query, count in zip(ids, counts, strict=True):
            scores = rng.normal(size=count) + np.isin(np.arange(count), answers[query])
            best = np.argsort(-scores)
            predictions[query] = list(zip(best.tolist(), scores[best].tolist(), strict=True))
        return predictions

    return draw_scores(), draw_scores(), answers
