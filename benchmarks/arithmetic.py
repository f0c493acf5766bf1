"""The least arithmetic of the models: what no rearrangement of the definitions avoids.

Each function counts floating-point operations, two for a multiplication and its addition. A product of [m, k]
with [k, n] costs m·k·n multiplications forward, and as many for the gradient of each factor that is trained
or leads to something trained. D, E, H, F are the config's region_dim, width, label_heads and ff; R regions of
B images, W words.

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


def count_words(queries: TokenBatch) -> int:
    """Count the words of all queries."""
    return int(queries.lengths.sum())


def count_encoder(config: ModelConfig, images: RegionBatch, heads: int, trained: str) -> int:
    """Count those of the image encoder; ``trained`` is ``nothing``, ``dense`` (both parts) or ``all``."""
    dim, width, regions = config.region_dim, config.width, len(images.features)
    context = regions * (4 * dim**2 + 2 * dim * config.ff) + 2 * dim * int((images.lengths**2).sum())
    first = regions * dim * (SUMMARY[0] + config.heads * width)
    inner = regions * sum(a * b for a, b in itertools.pairwise(SUMMARY))
    inner += len(images) * config.heads * width * heads * width
    times = {"nothing": (1, 1, 1), "dense": (1, 2, 3), "all": (3, 3, 3)}[trained]
    return 2 * sum(a * b for a, b in zip(times, (context, first, inner), strict=True))


def count_gru(words: int, inputs: int, width: int, first_times: int, times: int) -> int:
    """Count those of a GRU layer in one direction; its input's product counts ``first_times``."""
    return 2 * words * 3 * width * (inputs * first_times + width * times)


def count_model1_step(config: ModelConfig, batch: Batch) -> int:
    """Count those of a training step of model1."""
    width, hidden, rows = config.width, config.width // 4, len(batch)
    own = count_words(batch.queries)
    words = own + count_words(batch.negative_queries)
    images = sum(
        count_encoder(config, images, config.heads, "dense")
        for images in (batch.images, batch.negative_images)
    )
    text = 2 * count_gru(words, width, hidden, ONE_GRADIENT, BOTH_GRADIENTS)
    text += 2 * count_gru(words, 2 * hidden, hidden, BOTH_GRADIENTS, BOTH_GRADIENTS)
    parts = 2 * BOTH_GRADIENTS * SUMMARY[0] * (words * hidden + 2 * rows * width)
    pairs = own * rows + own + words  # cross, negative images, pairs with the negative queries
    scores = 2 * pairs * (ONE_GRADIENT * config.label_heads * width + BOTH_GRADIENTS * SUMMARY[0])
    return images + text + parts + scores


def count_model2_step(config: ModelConfig, batch: Batch) -> int:
    """Count those of a training step of model2."""
    width = config.width
    own = count_words(batch.queries)
    words = own + count_words(batch.negative_queries)
    paired = words + own
    images = sum(
        count_encoder(config, images, 1, "dense") for images in (batch.images, batch.negative_images)
    )
    first = count_gru(words, width, width, ONE_GRADIENT, 0) + count_gru(paired, 0, width, 0, BOTH_GRADIENTS)
    second = count_gru(paired, 2 * width, width, BOTH_GRADIENTS, BOTH_GRADIENTS)
    return images + 2 * (first + second)


def count_multilabel_step(config: ModelConfig, batch: Batch) -> int:
    """Count those of a training step of stage 2."""
    width, images = config.width, len(batch.images)
    said = count_words(batch.queries) + images
    labels = 2 * images * width * (config.label_heads * config.vocabulary + NEGATIVES)
    captions = 2 * said * width * (ONE_GRADIENT * config.vocabulary + BOTH_GRADIENTS * 2 * width)
    read = count_gru(said, width, width, ONE_GRADIENT, BOTH_GRADIENTS)
    return count_encoder(config, batch.images, config.heads, "all") + labels + captions + read


STEPS = {"multilabel": count_multilabel_step, "model1": count_model1_step, "model2": count_model2_step}


def count_model1_scores(config: ModelConfig, images: RegionBatch, queries: TokenBatch, words: int) -> int:
    """Count those of scoring with model1.

    Args:
        config: widths.
        images: those of the table, each once.
        queries: likewise.
        words: of all candidates' queries together.
    """
    width, hidden, own = config.width, config.width // 4, count_words(queries)
    text = 2 * count_gru(own, width, hidden, FORWARD, FORWARD)
    text += 2 * count_gru(own, 2 * hidden, hidden, FORWARD, FORWARD)
    parts = 2 * SUMMARY[0] * (own * hidden + len(images) * width)
    scores = 2 * words * (config.label_heads * width + SUMMARY[0])
    return count_encoder(config, images, config.heads, "nothing") + text + parts + scores


def count_model2_scores(config: ModelConfig, images: RegionBatch, queries: TokenBatch, words: int) -> int:
    """Count those of scoring with model2; arguments as in :func:`count_model1_scores`.

    Of its GRU only the first input product is the query's own.
    """
    width, own = config.width, count_words(queries)
    first = count_gru(own, width, width, FORWARD, 0) + count_gru(words, 0, width, 0, FORWARD)
    second = count_gru(words, 2 * width, width, FORWARD, FORWARD)
    return count_encoder(config, images, 1, "nothing") + 2 * (first + second)


SCORES = {"model1": count_model1_scores, "model2": count_model2_scores}
