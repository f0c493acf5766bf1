"""Layers over words that the stages share."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from kddcup.config import ModelConfig
from kddcup.text import NORM_EPS, TokenBatch, WordVectors


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
        copy_frozen(self.embed.weight, words.vectors)
        copy_frozen(self.norm.weight, words.norm_weight)
        copy_frozen(self.norm.bias, words.norm_bias)

    def packed(self, tokens: TokenBatch) -> nn.utils.rnn.PackedSequence:
        """The normalised word vectors of the real words, for a GRU."""
        vectors = self.norm(self.embed(tokens.ids))  # [B, T, E]
        return pack_padded_sequence(vectors, tokens.lengths, batch_first=True, enforce_sorted=False)


def copy_frozen(parameter: Tensor, values: np.ndarray) -> None:
    """Set a parameter from an array of its shape."""
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(values))
