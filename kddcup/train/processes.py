"""One of the processes that train together: which it is, and what it shares with the others."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed

from kddcup.config import SIZES
from kddcup.io.errors import UserError
from kddcup.train.precision import set_tf32


class Termination:
    """Whether this process is to end: it has been sent SIGTERM, or its launcher, if it has one, is gone."""

    def __init__(self, launched: bool = False) -> None:
        self._signalled = False
        self._launcher = os.getppid() if launched else None

    def request(self, *_: object) -> None:
        """The handler of the signal: the step that is running ends first."""
        self._signalled = True

    @property
    def requested(self) -> bool:
        """Whether to end after this step."""
        return self._signalled or self._launcher not in (None, os.getppid())


@dataclass(frozen=True)
class Process:
    """One of the processes that train together.

    ``run`` names what they do, over all its restarts by torchrun; ``restarted`` where this is one of them.
    """

    rank: int
    ranks: int
    device: torch.device
    termination: Termination = field(default_factory=Termination)
    run: str = ""
    restarted: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this one reads and writes checkpoints and writes the log."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print on the main process."""
        if self.is_main:
            print(text, flush=True)

    def gather(self, value: object) -> list:
        """Collect the values of all ranks on the main process; on the others there are none."""
        if self.ranks == 1:
            return [value]
        values = [None] * self.ranks if self.is_main else None
        distributed.gather_object(value, values)
        return values or []

    def broadcast(self, value: Any) -> Any:
        """Send the main process' value to all ranks."""
        if self.ranks == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, 0)
        return values[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; all ranks arrive here before one leaves."""
        if self.ranks == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(flags)
        return bool(flags.item())

    def check_agreement(self, facts: Mapping[str, Any]) -> None:
        """See that all ranks were given the same.

        Args:
            facts: values by what they are, for the message.

        Raises:
            UserError: on all ranks, where one differs from the main process.
        """
        if self.ranks == 1:
            return
        values: list[Any] = [None] * self.ranks
        distributed.all_gather_object(values, dict(facts))
        for rank, others in enumerate(values):
            for name in facts:
                own, main = others.get(name), values[0].get(name)
                if own != main:
                    raise UserError(
                        f"rank {rank} and rank 0 differ in {name} ({own}, {main}): "
                        "start all processes with the same data and flags"
                    )


def set_threads(size: str, processes: int = 1) -> None:
    """Set the threads of PyTorch in this process, on a CPU.

    At a product of small matrices a second thread mostly waits, which costs more than it gains.

    Args:
        size: of the models.
        processes: that share this machine.
    """
    if SIZES[size].threads:
        torch.set_num_threads(SIZES[size].threads)
    elif processes > 1:
        # The launcher sets one thread per process, however many cores there are.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def pick_device(devices: list[int], local_rank: int = 0) -> torch.device:
    """The GPU of a process, or the CPU where there is none; float32 products are in float32 from here on.

    Raises:
        UserError: ``devices`` names no GPU for this process, or one that is not there.
    """
    set_tf32(False)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if devices and local_rank >= len(devices):
        raise UserError(
            f"--devices names {len(devices)} GPUs, too few for the processes started: name one for each"
        )
    number = devices[local_rank] if devices else local_rank
    if number >= torch.cuda.device_count():
        raise UserError(
            f"GPU {number} is not there; this machine has {torch.cuda.device_count()}: see --devices"
        )
    return torch.device("cuda", number)
