"""The processes that train together: how they join, stop, agree, and end when they lose one another."""

import contextlib
import datetime
import os
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import distributed

from kddcup.config import TrainSettings
from kddcup.errors import UserError
from kddcup.files import remove_leftovers
from kddcup.locks import locked

ROOT = Path(__file__).resolve().parent.parent
JOIN_POLL_SECONDS = 0.05
CODE = ("kddcup", "multilabel", "model1", "model2")


class Termination:
    """Whether this process is to end: it has been sent SIGTERM, or its launcher, if it has one, is gone."""

    def __init__(self, launched: bool = False) -> None:
        self._signalled = False
        self._launcher = os.getppid() if launched else None

    def ask(self, *_: object) -> None:
        """The handler of the signal: the step that is running ends first."""
        self._signalled = True

    @property
    def asked(self) -> bool:
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

    def gathered(self, value: object) -> list:
        """The values of all ranks, on the main process."""
        if self.ranks == 1:
            return [value]
        values = [None] * self.ranks if self.is_main else None
        distributed.gather_object(value, values)
        return values or []

    def from_main(self, value: Any) -> Any:
        """The main process' value, on all ranks."""
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

    def agree(self, told: Mapping[str, Any]) -> None:
        """See that all ranks were told the same.

        Args:
            told: values by what they are, for the message.

        Raises:
            UserError: on all ranks, where one differs from the main process.
        """
        if self.ranks == 1:
            return
        values: list[Any] = [None] * self.ranks
        distributed.all_gather_object(values, dict(told))
        for rank, others in enumerate(values):
            for name in told:
                if others.get(name) != values[0].get(name):
                    raise UserError(
                        f"rank {rank} has another {name} ({others.get(name)}) than rank 0 "
                        f"({values[0].get(name)}): start all processes with the same code, data and flags"
                    )


def pick_device(devices: list[int], local_rank: int = 0) -> torch.device:
    """The GPU of a process, or the CPU where there is none.

    Raises:
        UserError: ``devices`` names no GPU for this process, or one that is not there.
    """
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


@contextlib.contextmanager
def launch(settings: TrainSettings) -> Iterator[Process]:
    """Join the other processes that ``torch.distributed.launch`` or ``torchrun`` started, if any.

    Seeds PyTorch alike on all ranks, so that modules start out equal; see
    :meth:`kddcup.training.Trainer.__init__`. The main process holds the lock of the checkpoints' folder.
    SIGTERM is noted in the process' ``termination``.

    Raises:
        UserError: another run writes into the folder of the checkpoints; the other processes are lost.
    """
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = pick_device(settings.devices, int(os.environ.get("LOCAL_RANK", 0)))
    torch.manual_seed(settings.seed)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif ranks > 1:
        # The launcher sets one thread per process, however many cores there are.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", ranks))))
    process = Process(rank, ranks, device, Termination(launched=ranks > 1))
    with contextlib.ExitStack() as stack:
        if process.is_main:
            stack.enter_context(locked(Path(settings.checkpoints_dir)))
            remove_leftovers(Path(settings.checkpoints_dir))
        run = stack.enter_context(_joined(process, datetime.timedelta(seconds=settings.timeout)))
        # Not before, since a process that waits for the others to join can simply be ended.
        before = signal.signal(signal.SIGTERM, process.termination.ask)
        stack.callback(signal.signal, signal.SIGTERM, before)
        # torchrun counts restarts on each host by itself.
        restarted = process.any(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0)
        yield replace(process, run=run, restarted=restarted)


@contextlib.contextmanager
def _joined(process: Process, timeout: datetime.timedelta) -> Iterator[str]:
    """Makes the group of processes, where there are several; gives the name of the run."""
    own = uuid.uuid4().hex
    if "TORCHELASTIC_RUN_ID" not in os.environ and process.ranks == 1:
        yield own
        return
    try:
        store, _, _ = next(distributed.rendezvous("env://", timeout=timeout))
        # The launcher keeps its store over restarts, and has one of its own for each run. Its run id would
        # not do, which is "none" for all runs on several hosts that name no other.
        run = store.compare_set("run", "", own).decode()
        if process.ranks == 1:
            yield run
            return
        distributed.init_process_group(
            "nccl" if process.device.type == "cuda" else "gloo",
            timeout=timeout,
            store=distributed.PrefixStore(_attempt(store, process, timeout), store),
            rank=process.rank,
            world_size=process.ranks,
        )
        yield run
        distributed.destroy_process_group()
    except RuntimeError as error:
        if not _is_of_the_others(error):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(
            f"rank {process.rank} lost the other processes ({reason}): "
            "see what ended them, or the network between the hosts; go on with '--resume'"
        ) from None


def _attempt(store: distributed.Store, process: Process, timeout: datetime.timedelta) -> str:
    """A name that these processes share, and those before a restart did not have.

    torchrun keeps its store over restarts, with the addresses of processes that are gone, and counts restarts
    on each host by itself, so that neither the run nor that count tells an attempt from the one before. So
    each rank r writes ``asks/r`` = a new name n; rank 0 answers ``answer/n`` = the attempt's name a; the rank
    says ``knows/a/r``; and rank 0 goes on when all know, be they asking for the second time.

    Raises:
        UserError: a rank has not joined within the time.
    """
    own = uuid.uuid4().hex
    if not process.is_main:
        store.set(f"asks/{process.rank}", own)
        attempt = store.get(f"answer/{own}").decode()
        store.set(f"knows/{attempt}/{process.rank}", "")
        return attempt
    deadline = time.monotonic() + timeout.total_seconds()
    waiting = set(range(1, process.ranks))
    while waiting:
        for rank in sorted(waiting):
            if store.check([f"asks/{rank}"]):
                store.set(f"answer/{store.get(f'asks/{rank}').decode()}", own)
            if store.check([f"knows/{own}/{rank}"]):
                waiting.remove(rank)
        if time.monotonic() > deadline:
            raise UserError(f"rank {min(waiting)} has not joined within {timeout}: start all processes")
        time.sleep(JOIN_POLL_SECONDS)
    return own


def _is_of_the_others(error: RuntimeError) -> bool:
    # gloo raises plain RuntimeErrors, which name the place in its source.
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def code_version() -> str:
    """A digest of this project's modules."""
    digest = xxhash.xxh3_64()
    for path in sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
