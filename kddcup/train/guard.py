"""The guard of a run: a step whose numbers are not finite changes nothing, and ends the run."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn.utils import get_total_norm

from kddcup.io.errors import UserError


@dataclass
class _Pending:
    """A step whose flags are on their way."""

    name: str
    products: np.ndarray
    flags: Tensor
    arrived: torch.cuda.Event | None


class FinitenessGuard:
    """Sees whether losses and gradients are finite without holding up the step.

    The flags are made and reduced on the device, mask the update there, and travel to the CPU while the next
    step runs; that step's end reads them.

    Args:
        rank: of this process.
        ranks: how many processes there are.
        device: where the losses are.
    """

    def __init__(self, rank: int, ranks: int, device: torch.device) -> None:
        self._rank, self._ranks, self._device = rank, ranks, device
        self._pending: _Pending | None = None
        self.stop_requested = False
        """Whether a rank asked for it, in the steps that have been read: the same on all ranks."""

    def flag(
        self, name: str, losses: Iterable[Tensor], gradients: list[Tensor], products: np.ndarray, stop: bool
    ) -> tuple[Tensor, Tensor]:
        """Register a step.

        Args:
            name: of the step, for the message.
            losses: of this rank.
            gradients: as the optimizer will use them.
            products: ids of this rank's products in the step.
            stop: whether this rank has to stop; travels with the rest, since ranks stop after the same step.

        Returns:
            two float32 scalars on the device: Adam's ``found_inf``, 1 if a number is not finite on any rank,
            else 0; and the norm of the gradients.

        Raises:
            UserError: the step before was not finite.
        """
        sound = torch.stack([loss.detach().float() for loss in losses]).isfinite().all()
        flags = torch.zeros(self._ranks + 2, device=self._device)  # each rank's losses, gradients, stop
        flags[self._rank] = (~sound).float()
        norm = get_total_norm(gradients)
        flags[-2] = (~norm.isfinite()).float()
        flags[-1].fill_(stop)
        if self._ranks > 1:
            distributed.all_reduce(flags)
        found = (flags[:-1].amax() > 0).float()
        self.check()
        arrived = None
        if self._device.type == "cuda":
            flags = torch.empty(flags.shape, pin_memory=True).copy_(flags, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._pending = _Pending(name, products, flags, arrived)
        return found, norm

    def check(self) -> None:
        """Read the flags of the last registered step.

        Raises:
            UserError: it was not finite.
        """
        step, self._pending = self._pending, None
        if step is None:
            return
        if step.arrived is not None:
            step.arrived.synchronize()
        *losses, gradients, stop = step.flags.tolist()
        self.stop_requested = stop > 0
        bad = [rank for rank, flag in enumerate(losses) if flag]
        if bad or gradients:
            what = (
                f"a loss is not finite on rank {', '.join(map(str, bad))}"
                if bad
                else "a gradient is not finite"
            )
            shown = ", ".join(map(str, np.unique(step.products).tolist()))
            raise UserError(
                f"{step.name}: {what}; rank {self._rank} had products {shown}; the step changed nothing: "
                "go on from the last checkpoint with '--resume' and a lower --rate, or '--precision float32'"
            )
