"""The loss of model2: does the query match the image?"""

import torch
from torch import Tensor
from torch.nn import functional as F

from kddcup.data.batch import Batch
from model2.model import Logits


def compute_losses(logits: Logits, batch: Batch) -> dict[str, Tensor]:
    """Binary cross-entropy, one mean over all 3B logits; only those of the pairs are to be positive."""
    pair, *negatives = logits
    flat = torch.cat([pair, *negatives]).float()  # [3B]
    labels = (torch.arange(len(flat), device=flat.device) < len(pair)).float()
    return {"matching": F.binary_cross_entropy_with_logits(flat, labels)}
