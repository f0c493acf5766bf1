"""The losses of stage 2: which words are an image's, and in which order its query has them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kddcup.data.batch import Batch
from multilabel.model import Logits

NEGATIVES = 1000
"""Words, of those that are not an image's, whose logits count in the tagging loss."""


def compute_losses(logits: Logits, batch: Batch) -> dict[str, Tensor]:
    """The losses of B queries, without unknown words, with an image each; their sum is minimised.

    An image's tags are the words of its query, or ``batch.labels`` where the batch has them.
    """
    captioning = F.cross_entropy(logits.captions.float(), logits.words, reduction="sum") / len(batch)
    labels = batch.queries if batch.labels is None else batch.labels
    return {"tagging": compute_tagging_loss(logits.tags.float(), labels.ids), "captioning": captioning}


def compute_tagging_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """−log σ(logit) of an image's distinct words and −log σ(−logit) of the hardest other words.

    Only the logits that count go through σ. Its plain twin is
    :func:`benchmarks.reference.compute_tagging_loss`.

    Args:
        logits: [B, V] of every word of the vocabulary.
        ids: [B, T] words of the images, padded with 0.

    Returns:
        the sum over the words of an image and over the min(1000, available) largest logits of other words,
        pad aside; mean over the batch.
    """
    positive = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids, True)
    positive[:, 0] = False
    others = logits.masked_fill(positive, -torch.inf)[:, 1:]
    hardest = others.topk(min(NEGATIVES, others.shape[1]), sorted=False).values
    repeated = (ids[:, :, None] == ids[:, None]).tril(-1).any(2)  # [B, T]
    found = F.softplus(-logits.gather(1, ids)).masked_fill(repeated | (ids == 0), 0)
    # softplus(−∞) is 0: where an image leaves fewer than 1,000 other words, only those count.
    return (found.sum() + F.softplus(hardest).sum()) / len(logits)
