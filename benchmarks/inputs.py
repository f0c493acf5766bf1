"""Made-up inputs of the competition's shape and the published models' sizes."""

from pathlib import Path

import numpy as np
import torch

from kddcup.config import ModelConfig
from kddcup.data.batch import Batch, RegionBatch, TokenBatch, scale_boxes
from kddcup.io.ragged import Ragged
from kddcup.rank.predictions import Predictions
from kddcup.table.rows import COLUMNS, encode_base64

LONGEST = 40
FIRST_WORD = 1000
NEW_PRODUCTS = 0.62
"""The share of rows whose product is new; 9,177 of valid's 14,720."""


def regions_per_image(rng: np.random.Generator, images: int) -> np.ndarray:
    """[images] counts whose mean is 4.0; the competition's frequencies within 0.02."""
    return np.minimum(LONGEST, 1 + rng.negative_binomial(1.4, 1.4 / 4.4, images))


def words_per_query(rng: np.random.Generator, queries: int) -> np.ndarray:
    """[queries] counts whose mean is 4: the competition's content words, some of them in pieces."""
    return 2 + rng.poisson(2, queries)


def features(rng: np.random.Generator, regions: int, dim: int) -> np.ndarray:
    """[regions, dim] float32, not negative, half of it zero; float16 holds them exactly."""
    drawn = rng.integers(-2048, 2048, (regions, dim), np.int16)
    return np.maximum(drawn, 0).astype(np.float32) / 1024


def boxes(rng: np.random.Generator, regions: int) -> np.ndarray:
    """[regions, 4] in an image of 800 × 800 pixels."""
    corner = rng.uniform(0, 400, (regions, 2))
    return np.concatenate([corner, corner + rng.uniform(50, 400, (regions, 2))], 1).astype(np.float32)


def images(rng: np.random.Generator, count: int, dim: int) -> RegionBatch:
    """A batch of images."""
    lengths = regions_per_image(rng, count)
    total = int(lengths.sum())
    return RegionBatch(
        torch.from_numpy(features(rng, total, dim)),
        torch.from_numpy(scale_boxes(boxes(rng, total), 800, 800)),
        torch.from_numpy(lengths),
    )


def queries(rng: np.random.Generator, count: int, vocabulary: int) -> TokenBatch:
    """A batch of queries."""
    lengths = words_per_query(rng, count)
    words = rng.integers(min(FIRST_WORD, vocabulary // 2), vocabulary, lengths.sum())
    tokens = Ragged(words, np.concatenate([[0], np.cumsum(lengths)]))
    return TokenBatch.from_ragged(tokens, np.arange(count))


def batch(config: ModelConfig, rows: int, negatives: bool, seed: int = 0) -> Batch:
    """What a training step takes."""
    rng = np.random.default_rng(seed)
    count = 2 * rows if negatives else rows
    words, pictures = queries(rng, count, config.vocabulary), images(rng, count, config.region_dim)
    return Batch(words, pictures, np.arange(count))


def write_table(path: Path, rows: int, dim: int, candidates: int = 30, seed: int = 0) -> None:
    """A table of so many rows; a query has 30 candidates, and some products come again."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    known: list[list[str]] = []
    with open(path, "w", encoding="utf-8") as file:
        file.write("\t".join(COLUMNS) + "\n")
        for row in range(rows):
            query, place = divmod(row, candidates)
            if place == 0:
                words = " ".join(f"w{word}" for word in rng.integers(0, 500, int(words_per_query(rng, 1)[0])))
                here: set[int] = set()
            product = int(rng.integers(max(1, len(known))))
            if rng.random() < NEW_PRODUCTS or product in here or not known:
                product, count = len(known), int(regions_per_image(rng, 1)[0])
                labels = rng.integers(0, 33, count)
                arrays = (boxes(rng, count), features(rng, count, dim), labels)
                known.append([str(product), "800", "800", str(count), *map(encode_base64, arrays)])
            here.add(product)
            file.write("\t".join([*known[product], words, str(query)]) + "\n")


def encode_text(text: str) -> list[int]:
    """Token ids of a query of :func:`write_table`."""
    return [int(word[1:]) + 1 for word in text.split()]


def predictions(queries: int = 496, seed: int = 0) -> tuple[Predictions, Predictions, dict[str, list[int]]]:
    """Scores of two models and answers: by default 496 queries and 14,720 candidates."""
    rng = np.random.default_rng(seed)
    ids = [str(query) for query in range(queries)]
    counts = np.where(np.arange(queries) < 14_720 - 29 * 496, 30, 29).tolist()
    answers = {query: rng.choice(29, 6, replace=False).tolist() for query in ids}
    found = []
    for _ in range(2):
        scores = {}
        for query, count in zip(ids, counts, strict=True):
            drawn = rng.normal(size=count) + np.isin(np.arange(count), answers[query])
            best = np.argsort(-drawn)
            scores[query] = list(zip(best.tolist(), drawn[best].tolist(), strict=True))
        found.append(scores)
    return found[0], found[1], answers
