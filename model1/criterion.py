"""The loss of model1: pairs against drawn negatives, and against the hardest of their batch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kddcup.data.batch import Batch
from model1.model import Scores

MARGIN = 0.9
"""As published."""


def compute_losses(
    scores: Scores, batch: Batch, margin: float = MARGIN, mean: bool = False
) -> dict[str, Tensor]:
    """The four losses of a batch, whose sum is minimised; each is a mean over its B pairs.

    Args:
        scores: of the batch.
        batch: may say which of its queries and images match.
        margin: by which a pair's score is to exceed those of its negatives.
        mean: as in :func:`compute_contrastive_losses`.
    """
    per_query, per_image = compute_contrastive_losses(scores.cross, batch.matches, margin, mean)
    return {
        "negative_image": compute_ranking_loss(scores.pair, scores.negative_image, margin),
        "negative_query": compute_ranking_loss(scores.pair, scores.negative_query, margin),
        "contrastive_query": per_query,
        "contrastive_image": per_image,
    }


def compute_ranking_loss(pair: Tensor, negative: Tensor, margin: float = MARGIN) -> Tensor:
    """Margin ranking, mean over the batch: how far the pair [B] is from a margin above the negative [B]."""
    return F.relu(margin - pair + negative).mean()


def compute_contrastive_losses(
    cross: Tensor, matches: Tensor | None = None, margin: float = MARGIN, mean: bool = False
) -> tuple[Tensor, Tensor]:
    """Max-violation contrastive loss (Faghri et al., 2018, "VSE++").

    Args:
        cross: [B, B] scores of each query with each image; the pairs are on the diagonal.
        matches: [B, B] true where an image is no negative of a query, though it is another pair's.
        margin: by which a pair's score is to exceed the others.
        mean: take the mean over all negatives instead of the hardest, as in the first epoch of
            Chen et al., 2021, "Learning the Best Pooling Strategy for Visual Semantic Embedding".

    Returns:
        per query and per image: how far its negatives in the batch come within the margin, batch means.
    """
    pair = cross.diagonal()
    per_query, per_image = F.relu(margin - pair[:, None] + cross), F.relu(margin - pair + cross)  # [B, B]
    positive = torch.eye(len(cross), dtype=torch.bool, device=cross.device)
    if matches is not None:
        positive |= matches
    per_query, per_image = per_query.masked_fill(positive, 0), per_image.masked_fill(positive, 0)
    if mean:
        per_row, per_column = ((~positive).sum(axis).clamp(min=1) for axis in (1, 0))
        return (per_query.sum(1) / per_row).mean(), (per_image.sum(0) / per_column).mean()
    return per_query.amax(1).mean(), per_image.amax(0).mean()
