"""Averaged weights: what a model is scored and saved with, while its own are trained."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The exponential moving average of parameters, a ← d·a + (1 − d)·p (Polyak and Juditsky, 1992).

    Args:
        parameters: that are trained; the average starts from them.
        decay: d, from 0 to 1.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self._parameters = list(parameters)
        self._values = [parameter.detach().clone() for parameter in parameters]
        self._blend = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        """Take in the parameters after a step."""
        self._blend(self._values, [parameter.detach() for parameter in self._parameters], None)

    @contextlib.contextmanager
    def applied(self) -> Iterator[list[Tensor]]:
        """Have the averages in the parameters' places within the block; gives what was there."""
        raw = [parameter.detach().clone() for parameter in self._parameters]
        copy_values(self._parameters, self._values)
        try:
            yield raw
        finally:
            copy_values(self._parameters, raw)


@torch.no_grad()
def copy_values(targets: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Set tensors, parameters too, from others of their shapes."""
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)
