"""What every training loop needs: launch, rank, device, wrap, steps, checkpoints, log."""

import contextlib
import datetime
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from kddcup.checkpoint import Checkpoint, RunConfig, checkpoint_epochs, checkpoint_path, write_checkpoint
from kddcup.config import SIZES, ModelConfig, TrainSettings
from kddcup.corpus import Info, open_info
from kddcup.errors import UserError
from kddcup.guard import FinitenessGuard
from kddcup.loader import Batch
from kddcup.predictions import check_answered, read_answers
from kddcup.regions import RegionStore
from kddcup.scoring import Scorer, Split, check_dimension, score_table
from kddcup.tsv import Table

TIMEOUT = datetime.timedelta(minutes=30)
"""How long ranks wait for each other; rank 0 scores the valid table meanwhile."""


@dataclass(frozen=True)
class Process:
    """One of the processes that train together."""

    rank: int
    ranks: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this one writes files and the log."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print on the main process."""
        if self.is_main:
            print(text, flush=True)


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

    Seeds PyTorch alike on all ranks, so that modules start out equal; see :meth:`Trainer.__init__`.
    """
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = pick_device(settings.devices, int(os.environ.get("LOCAL_RANK", 0)))
    torch.manual_seed(settings.seed)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif ranks > 1:
        # The launcher sets one thread per process, however many cores there are.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", ranks))))
    if ranks > 1:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Process(rank, ranks, device)
    finally:
        if ranks > 1:
            distributed.destroy_process_group()


@dataclass(frozen=True)
class TrainingData:
    """What stage 1 wrote, and the valid table that every epoch is scored on."""

    info: Info
    store: RegionStore
    valid: Split

    @classmethod
    def open(cls, data_dir: str) -> "TrainingData":
        """Open all of it before the first step.

        Raises:
            UserError: stage 1 has not been run, or the valid table or its answers are absent or do not fit.
        """
        folder = Path(data_dir)
        info, store, valid = open_info(data_dir), RegionStore(folder / "features"), Split(folder, "valid")
        if not np.array_equal(np.unique(info.corpus.row_product), np.sort(store.product_ids)):
            raise UserError(
                f"{folder / 'info'} and {folder / 'features'} are of different tables: "
                f"make both with 'python preprocess.py --data_dir {data_dir} --force'"
            )
        _check_valid(valid, store.dim)
        return cls(info, store, valid)

    def config(self, settings: TrainSettings, size: str) -> RunConfig:
        """What the checkpoints of a run on these data say of it."""
        vocabulary, width = self.info.words.vectors.shape
        model = ModelConfig(self.store.dim, width, vocabulary, ff=SIZES[size].ff, dropout=settings.dropout)
        return RunConfig(size, model, self.info.vocabulary.to_dict(), asdict(settings))

    def valid_ndcg(
        self, model: Scorer, encode_text: Callable[[str], list[int]], device: torch.device
    ) -> float:
        """NDCG@5 on valid."""
        predictions = score_table(self.valid.table, model, encode_text, self.store.dim, device)
        return float(self.valid.ndcg(predictions).mean())


def _check_valid(valid: Split, region_dim: int) -> None:
    """See before the first epoch that the valid table can be scored after it."""
    candidates: dict[str, list[tuple[int, float]]] = {}
    for row in Table(valid.table).rows("check valid"):
        check_dimension(valid.table, row.features.shape[1], region_dim)
        candidates.setdefault(str(row.query_id), []).append((row.product_id, 0.0))
    check_answered(candidates, read_answers(valid.answers), (valid.table, valid.answers))


class Trainer:
    """Trains a module whose forward gives the losses of a batch.

    Args:
        process: this process.
        module: on the CPU; ``forward(batch)`` gives scalar losses by name, whose sum is minimised.
        groups: Adam's parameter groups, each with ``params``, ``lr`` and, if any, ``weight_decay``.
        parts: what a checkpoint holds, by name.
        settings: of the run.
        config: what the checkpoints say of the run.
    """

    def __init__(
        self,
        process: Process,
        module: nn.Module,
        groups: Iterable[dict],
        parts: Mapping[str, nn.Module],
        settings: TrainSettings,
        config: RunConfig,
    ) -> None:
        self._process, self._settings, self._parts = process, settings, parts
        self._config = config
        self.module = module.to(process.device)
        self.optimizer = torch.optim.Adam(groups, fused=True)
        self._trained = [one for group in self.optimizer.param_groups for one in group["params"]]
        self._guard = FinitenessGuard(process.rank, process.ranks, process.device)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        # From here on, each rank has dropout of its own.
        torch.manual_seed(settings.seed + process.rank)
        self._first_epoch = self._resume() if settings.resume else 0
        self._wrapped = DistributedDataParallel(self.module) if process.ranks > 1 else self.module
        self._sums: dict[str, Tensor] = {}

    def _resume(self) -> int:
        """Go back to where the newest checkpoint left off; gives the epoch to train next."""
        epochs = checkpoint_epochs(self._settings.checkpoints_dir)
        if not epochs:
            self._process.say(f"{self._settings.checkpoints_dir} has no checkpoint: starting from epoch 0")
            return 0
        path = checkpoint_path(self._settings.checkpoints_dir, max(epochs))
        checkpoint = Checkpoint.read(path, "train.py without --resume")
        for name in ("seed", "batch_size", "dropout"):
            before, now = checkpoint.config.training.get(name), getattr(self._settings, name)
            if before != now:
                raise UserError(f"{path} was trained with --{name} {before}, not {now}: resume with the same")
        checkpoint.load_into(self._parts)
        try:
            self.optimizer.load_state_dict(checkpoint.parts["optimizer"])
            random_states = checkpoint.parts["state"]["random"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} cannot be resumed ({error}): train anew without --resume") from None
        if len(random_states) != self._process.ranks:
            raise UserError(
                f"{path} was trained by {len(random_states)} processes, not {self._process.ranks}: "
                "resume with as many"
            )
        _set_random_state(random_states[self._process.rank], self._process.device)
        self._process.say(f"resuming after epoch {max(epochs)} of {self._settings.checkpoints_dir}")
        return max(epochs) + 1

    def epochs(self) -> range:
        """The epochs to train."""
        settings = self._settings
        last = settings.use_epoch + 1 if settings.stop_at_use_epoch else settings.epochs
        return range(self._first_epoch, last)

    def steps(self, epoch: int, batches: Iterable, count: int) -> None:
        """Train on an epoch's batches.

        Args:
            epoch: from 0.
            batches: of this rank.
            count: how many there are.
        """
        self._wrapped.train()
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._settings.rate_factor(epoch)
        self._sums, self._count, self._started, self._waited = {}, count, time.monotonic(), 0.0
        hidden = None if self._process.is_main else True
        with tqdm(desc=f"epoch {epoch}", total=count, disable=hidden) as bar:
            asked = time.monotonic()
            for number, batch in enumerate(batches):
                self._waited += time.monotonic() - asked
                for name, loss in self.step(batch, f"epoch {epoch}, step {number}").items():
                    self._sums[name] = self._sums.get(name, 0) + loss
                bar.update()
                asked = time.monotonic()
        self._guard.check()

    def step(self, batch: list[Batch], name: str = "step") -> dict[str, Tensor]:
        """One step; gives the detached losses by name.

        Args:
            batch: its micro-batches, whose gradients add up to those of the whole.
            name: of the step, for messages.

        Raises:
            UserError: the step before had a number that is not finite.
        """
        self.optimizer.zero_grad()
        total = sum(len(part.queries) for part in batch)
        summed: dict[str, Tensor] = {}
        for part in batch:
            alone = part is not batch[-1] and self._process.ranks > 1
            with self._wrapped.no_sync() if alone else contextlib.nullcontext():
                with torch.autocast(
                    self._process.device.type, torch.bfloat16, self._settings.precision == "bf16"
                ):
                    losses = self._wrapped(part)
                share = len(part.queries) / total
                losses = {key: share * loss for key, loss in losses.items()}
                sum(losses.values()).backward()
            for key, loss in losses.items():
                summed[key] = summed.get(key, 0) + loss.detach()
        gradients = [one.grad for one in self._trained if one.grad is not None]
        products = np.concatenate([part.products for part in batch])
        # Where it is 1, Adam leaves parameters, moments and step count as they are, on the device.
        self.optimizer.found_inf = self._guard.flag(name, summed.values(), gradients, products)
        self.optimizer.step()
        return summed

    def finish(self, epoch: int, score: Callable[[], float]) -> None:
        """Write the epoch's checkpoint, score valid, log; ranks leave together.

        Args:
            epoch: the one that ended.
            score: gives NDCG@5 on valid; called on the main process, in eval mode.
        """
        means = torch.stack([loss.float() for loss in self._sums.values()]) / self._count
        if self._process.ranks > 1:
            distributed.all_reduce(means)
            means /= self._process.ranks
        random_states = self._gathered(_random_state(self._process.device))
        if self._process.is_main:
            path = checkpoint_path(self._settings.checkpoints_dir, epoch)
            state = {"epoch": epoch, "random": random_states}
            write_checkpoint(
                path, self._parts, self._config, optimizer=self.optimizer.state_dict(), state=state
            )
            trained = time.monotonic() - self._started
            self.module.eval()
            reached = score()
            losses = "  ".join(
                f"{name} {value:.4f}" for name, value in zip(self._sums, means.tolist(), strict=True)
            )
            self._process.say(
                f"epoch {epoch}: {losses}  valid NDCG@5 {reached:.4f}  {trained:.0f} s, "
                f"{self._waited / trained:.1%} waiting for data  {path}"
            )
        if self._process.ranks > 1:
            distributed.barrier()

    def _gathered(self, value: object) -> list:
        """The values of all ranks, on the main process."""
        if self._process.ranks == 1:
            return [value]
        values = [None] * self._process.ranks if self._process.is_main else None
        distributed.gather_object(value, values)
        return values or []


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
