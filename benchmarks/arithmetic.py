"""The least arithmetic of the models: what no rearrangement of the definitions avoids.

Each function gives floating-point operations, two for a multiplication and its addition. A product of [m, k]
with [k, n] costs m·k·n multiplications forward, as many for the gradient of each factor that is trained or
leads to something trained. D, E, H, F are the config's region_dim, width, label_heads and ff; R regions of B
images, W words.

    encoder      context R·(4·D² + 2·D·F) + 2·D·Σn², forward alone where it is frozen
                 R·(D·512 + D·(1+H)·E) + R·(512·256 + 256·128 + 128) + B·(1+H)·E·heads·E
    model1       + GRUs of width E/4 on the words of 2B queries + cross matrix W·B·(H·E + 512), and the pairs
    model2       + GRUs of width E on the words of 3B pairs; their first input product on those of 2B queries
    multilabel   + labels B·H·E·V, captions N·(V·E + 2·E²) and their GRU; of the labels' gradients only those
                 of the words that count
"""

import itertools

from kddcup.config import ModelConfig
from kddcup.data.batch import Batch, RegionBatch, TokenBatch

SUMMARY = (512, 256, 128, 1)
FORWARD, ONE_GRADIENT, BOTH_GRADIENTS = 1, 2, 3
NEGATIVES = 1000


def encoder(config: ModelConfig, images: RegionBatch, heads: int, trained: str) -> int:
    """Of the image encoder; ``trained`` is ``nothing``, ``dense`` (and ``dense_summary``) or ``all``."""
    dim, width, regions = config.region_dim, config.width, len(images.features)
    context = regions * (4 * dim**2 + 2 * dim * config.ff) + 2 * dim * int((images.lengths**2).sum())
    first = regions * dim * (SUMMARY[0] + config.heads * width)
    inner = regions * sum(a * b for a, b in itertools.pairwise(SUMMARY))
    inner += len(images) * config.heads * width * heads * width
    times = {"nothing": (1, 1, 1), "dense": (1, 2, 3), "all": (3, 3, 3)}[trained]
    return 2 * sum(a * b for a, b in zip(times, (context, first, inner), strict=True))


def gru(words: int, inputs: int, width: int, first_times: int, times: int) -> int:
    """Of a GRU layer in one direction; its input's product counts ``first_times``."""
    return 2 * words * 3 * width * (inputs * first_times + width * times)


def model1_step(config: ModelConfig, batch: Batch) -> int:
    """A training step of model1."""
    width, hidden = config.width, config.width // 4
    rows, words = len(batch.queries) // 2, int(batch.queries.lengths.sum())
    own = int(batch.queries.lengths[:rows].sum())
    text = 2 * gru(words, width, hidden, ONE_GRADIENT, BOTH_GRADIENTS)
    text += 2 * gru(words, 2 * hidden, hidden, BOTH_GRADIENTS, BOTH_GRADIENTS)
    parts = 2 * BOTH_GRADIENTS * SUMMARY[0] * (words * hidden + 2 * rows * width)
    pairs = own * rows + own + words  # cross, negative images, pairs with the negative queries
    scores = 2 * pairs * (ONE_GRADIENT * config.label_heads * width + BOTH_GRADIENTS * SUMMARY[0])
    return encoder(config, batch.images, config.heads, "dense") + text + parts + scores


def model2_step(config: ModelConfig, batch: Batch) -> int:
    """A training step of model2."""
    width, rows = config.width, len(batch.queries) // 2
    words = int(batch.queries.lengths.sum())
    paired = words + int(batch.queries.lengths[:rows].sum())
    first = 2 * (gru(words, width, width, ONE_GRADIENT, 0) + gru(paired, 0, width, 0, BOTH_GRADIENTS))
    second = 2 * gru(paired, 2 * width, width, BOTH_GRADIENTS, BOTH_GRADIENTS)
    return encoder(config, batch.images, 1, "dense") + first + second


def multilabel_step(config: ModelConfig, batch: Batch) -> int:
    """A training step of stage 2."""
    width, images = config.width, len(batch.images)
    said = int(batch.queries.lengths.sum()) + images
    labels = 2 * images * width * (config.label_heads * config.vocabulary + NEGATIVES)
    captions = 2 * said * width * (ONE_GRADIENT * config.vocabulary + BOTH_GRADIENTS * 2 * width)
    read = gru(said, width, width, ONE_GRADIENT, BOTH_GRADIENTS)
    return encoder(config, batch.images, config.heads, "all") + labels + captions + read


def model1_scores(config: ModelConfig, images: RegionBatch, queries: TokenBatch, pair_words: int) -> int:
    """Scoring with model1: ``images`` and ``queries`` once, ``pair_words`` words over all candidates."""
    width, hidden, words = config.width, config.width // 4, int(queries.lengths.sum())
    text = 2 * gru(words, width, hidden, 1, 1) + 2 * gru(words, 2 * hidden, hidden, 1, 1)
    parts = 2 * SUMMARY[0] * (words * hidden + len(images) * width)
    scores = 2 * pair_words * (config.label_heads * width + SUMMARY[0])
    return encoder(config, images, config.heads, "nothing") + text + parts + scores


def model2_scores(config: ModelConfig, images: RegionBatch, queries: TokenBatch, pair_words: int) -> int:
    """Scoring with model2; of its GRU only the first input product is the query's own."""
    width, words = config.width, int(queries.lengths.sum())
    first = 2 * (gru(words, width, width, 1, 0) + gru(pair_words, 0, width, 0, 1))
    return encoder(config, images, 1, "nothing") + first + 2 * gru(pair_words, 2 * width, width, 1, 1)
