"""Layers over words that the stages share."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from kddcup.config import ModelConfig
from kddcup.data.batch import TokenBatch
from kddcup.text.vocabulary import NORM_EPS, WordVectors


@dataclass(frozen=True)
class Packing:
    """How B lists of at most T words lie in a ``PackedSequence``: step after step, the longest list first.

    Laid out on the CPU from lengths that are there, so that no device is asked, which PyTorch's
    ``pack_padded_sequence`` would do. Its plain twin is :class:`benchmarks.reference.TextEncoder`.

    Args:
        places: [N] where in the padded B·T a packed word stands.
        batch_sizes: [T], in CPU memory: how many lists have a word at a step.
        order: [B] the lists by length.
        inverse: [B] the place of each list in that order.
    """

    places: Tensor
    batch_sizes: Tensor
    order: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, lengths: Tensor, width: int, device: torch.device) -> "Packing":
        """Of lists of ``lengths`` [B], in CPU memory, padded to ``width``."""
        order = lengths.argsort(descending=True, stable=True)
        real = torch.arange(int(lengths.max()))[:, None] < lengths[order]  # [T, B]
        step, rank = real.nonzero(as_tuple=True)
        places = order[rank] * width + step
        return cls(
            places.to(device, non_blocking=True),
            real.sum(1),
            order.to(device, non_blocking=True),
            order.argsort().to(device, non_blocking=True),
        )

    def pack(self, data: Tensor) -> PackedSequence:
        """What a GRU takes; ``data`` [N, E] of the packed words."""
        return PackedSequence(data, self.batch_sizes, self.order, self.inverse)


class FrozenWords(nn.Module):
    """Word vectors and the LayerNorm behind them, neither of which is trained; base of the text encoders.

    Args:
        config: widths.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.embed.requires_grad_(False)
        self.norm.requires_grad_(False)

    def set_words(self, words: WordVectors) -> None:
        """Take the word vectors of stage 1."""
        copy_array(self.embed.weight, words.vectors)
        copy_array(self.norm.weight, words.norm_weight)
        copy_array(self.norm.bias, words.norm_bias)

    def embed_normalized(self, ids: Tensor) -> Tensor:
        """Look up the word vectors [.., E] of ids [..] and normalise them."""
        return self.norm(self.embed(ids))

    def pack(self, tokens: TokenBatch) -> tuple[PackedSequence, Packing]:
        """Pack the normalised vectors of the real words for a GRU; gives also how they lie there."""
        packing = Packing.of(tokens.lengths, tokens.ids.shape[1], tokens.ids.device)
        return packing.pack(self.embed_normalized(tokens.ids.flatten()[packing.places])), packing


def copy_array(parameter: Tensor, values: np.ndarray) -> None:
    """Set a parameter from an array of its shape."""
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(values))


def list_trainable(module: nn.Module) -> list[nn.Parameter]:
    """List the parameters of a module that are not frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
