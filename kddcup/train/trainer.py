"""The training loop's parts: epochs, batches, steps, and what an epoch ends with."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from kddcup.config import TrainSettings
from kddcup.data.batch import Batch
from kddcup.data.loader import TrainLoader
from kddcup.io.errors import Terminated, UserError
from kddcup.nn.ranker import Ranker
from kddcup.stages import Stage
from kddcup.train.average import WeightAverage, copy_values
from kddcup.train.checkpoint import RunConfig, find_best, write_checkpoint
from kddcup.train.folder import STEP, checkpoint_path, point_to
from kddcup.train.guard import FinitenessGuard
from kddcup.train.log import (
    LOGGED_STEPS,
    EpochLog,
    Pace,
    RunLog,
    RunningMeans,
    StepLog,
    Throughput,
    measure_peak_memory,
    name_groups,
)
from kddcup.train.precision import tf32
from kddcup.train.processes import Process
from kddcup.train.resumption import Progress, Resumed, get_random_state, resume

MAY_DIFFER = ("data_dir", "checkpoints_dir", "encoder", "devices", "workers", "log_json")
"""Settings that ranks need not share: hosts have folders of their own."""
GO_ON = "go on with --resume"
LONG_SECONDS = 60.0
"""An epoch of longer steps is saved before it is scored too."""


class Trainer:
    """Trains a stage's model, on this process or on several::

        for epoch in trainer.epochs():
            for batch in trainer.batches(loader, epoch):
                trainer.step(batch)
            trainer.finish(epoch, score)

    Args:
        process: this process.
        stage: gives the parts of a checkpoint.
        model: on the CPU; ``model(batch)`` gives what ``compute_losses`` takes.
        compute_losses: from that and the batch, scalar losses by name, whose sum is minimised.
        optimizer: Adam, of the parameters that are trained; fused, so that the guard can mask its step.
        rate_factor: what the groups' rates are multiplied by in an epoch, counted from 0.
        settings: of the run.
        config: what the checkpoints say of the run.
        keep_start: whether epoch 0 has no steps, so that its checkpoint is what the training starts from,
            scored like those of the epochs after it.

    Raises:
        UserError: the ranks have different data or settings, or the run cannot be resumed.
    """

    def __init__(
        self,
        process: Process,
        stage: Stage,
        model: Ranker,
        compute_losses: Callable[[Any, Batch], dict[str, Tensor]],
        optimizer: torch.optim.Adam,
        rate_factor: Callable[[int], float],
        settings: TrainSettings,
        config: RunConfig,
        keep_start: bool = False,
    ) -> None:
        self._process, self._settings, self._config = process, settings, config
        self._check_ranks_agree()
        self.model = model.to(process.device)
        self._parts = stage.name_parts(model)
        self._compute_losses, self.optimizer, self._rate_factor = compute_losses, optimizer, rate_factor
        self._trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._guard = FinitenessGuard(process.rank, process.ranks, process.device)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._recent, self._norm = RunningMeans(), RunningMeans()
        if process.is_main:
            self._log = RunLog(Path(settings.checkpoints_dir), settings.log_json)
        # From here on, each rank has dropout of its own.
        torch.manual_seed(settings.seed + process.rank)
        self._keep_start = keep_start
        resumed = Resumed()
        if settings.resume or process.restarted:
            resumed = resume(process, settings, config, self._parts, optimizer)
        self._progress = resumed.progress
        # The main process scores and saves: no other needs averages.
        averages = settings.average > 0 and process.is_main
        self._average = WeightAverage(self._trained, settings.average) if averages else None
        if resumed.raw:
            copy_values(self._trained, resumed.raw)
        self._steps_left = settings.max_steps or math.inf
        self._steps_per_epoch = 0
        # Gives all ranks the parameters of rank 0.
        self._wrapped = DistributedDataParallel(self.model) if process.ranks > 1 else self.model

    def _check_ranks_agree(self) -> None:
        facts = {
            "PyTorch": torch.__version__,
            "data": self._config.data,
            "vocabulary": xxhash.xxh3_64_hexdigest(json.dumps(self._config.vocabulary).encode()),
            "model": str(self._config.model),
        }
        flags = {f"--{key}": value for key, value in asdict(self._settings).items() if key not in MAY_DIFFER}
        self._process.check_agreement({**facts, **flags})

    def epochs(self) -> Iterator[int]:
        """The epochs to train, from the one that is not finished."""
        settings = self._settings
        last = settings.epochs
        if settings.stop_at_use_epoch and settings.use_epoch != "best":
            last = settings.use_epoch + 1
        for epoch in range(self._progress.epoch, last):
            if self._steps_left == 0 or self._is_decided():
                return
            yield epoch

    def _is_decided(self) -> bool:
        """Whether the best epoch is to be used and found."""
        settings, valid = self._settings, self._progress.valid
        if not settings.stop_at_use_epoch or settings.use_epoch != "best" or not valid:
            return False
        return len(valid) > find_best(valid) + settings.patience

    def batches(self, loader: TrainLoader, epoch: int) -> Iterator[list[Batch]]:
        """An epoch's batches that have not been trained on, as micro-batches; between them the run is saved.

        Args:
            loader: of this rank.
            epoch: from 0.

        Raises:
            UserError: a step had a number that is not finite.
            Terminated: a rank was sent SIGTERM; the run has been saved.
        """
        progress, settings = self._progress, self._settings
        self._steps_per_epoch = count = 0 if self._keep_start and epoch == 0 else len(loader)
        if progress.step > count:
            raise UserError(
                f"the newest checkpoint of {settings.checkpoints_dir} is at step {progress.step} of an epoch "
                f"that has {count}: train anew without --resume"
            )
        if self._process.is_main and (progress.epoch, progress.step) == (0, 0):
            # Not before all has been checked: the folder's earlier run is forgotten.
            point_to(settings.checkpoints_dir, None, self._process.run)
        self._wrapped.train()
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._rate_factor(epoch)
        self._throughput = throughput = Throughput()
        self._recent = RunningMeans()
        started = asked = time.monotonic()
        pace = Pace()
        hidden = None if self._process.is_main else True
        with tqdm(desc=f"epoch {epoch}", total=count, initial=progress.step, disable=hidden) as bar:
            for batch in loader.epoch(epoch, self._process.device, progress.step) if count else ():
                throughput.waited += time.monotonic() - asked
                yield batch
                progress.step += 1
                throughput.steps += 1
                rows = sum(map(len, batch))
                throughput.rows += rows
                pace.add(time.monotonic(), rows)
                bar.update()
                if progress.step % LOGGED_STEPS == 0:
                    self._log_steps(epoch, pace)
                self._save_if_due()
                if self._steps_left == 0:
                    break
                asked = time.monotonic()
        self._guard.check()
        throughput.seconds = time.monotonic() - started

    def _log_steps(self, epoch: int, pace: Pace) -> None:
        """Log the epoch's course on the main process, which asks the device for it.

        Raises:
            UserError: the last step had a number that is not finite.
        """
        self._guard.check()
        process, progress = self._process, self._progress
        if not process.is_main:
            return
        *losses, (_, norm) = self._recent.take().items()
        rows, steps = pace.measure()
        self._log.add_steps(
            StepLog(
                epoch=epoch,
                step=progress.step,
                steps=self._steps_per_epoch,
                losses=dict(losses),
                rates=self._name_rates(),
                gradient_norm=norm,
                speed=rows * process.ranks,
                seconds_left=(self._steps_per_epoch - progress.step) / steps,
                peak_memory=measure_peak_memory(process.device),
            )
        )

    def _name_rates(self) -> dict[str, float]:
        """The learning rates in force, by the parts of the model that they are of."""
        groups = self.optimizer.param_groups
        return dict(zip(name_groups(self.model, groups), (group["lr"] for group in groups), strict=True))

    def _save_if_due(self) -> None:
        """After a step: save, stop where that was asked for."""
        progress, settings = self._progress, self._settings
        self._steps_left -= 1
        due = settings.save_every and progress.step % settings.save_every == 0
        if self._guard.stop_requested or (due and progress.step < self._steps_per_epoch):
            self._save(STEP)
        if self._guard.stop_requested:
            raise Terminated(f"terminated after epoch {progress.epoch}, step {progress.step - 1}: {GO_ON}")

    def step(self, batch: list[Batch]) -> None:
        """Update the model by a batch.

        Args:
            batch: its micro-batches, whose gradients add up to those of the whole.

        Raises:
            UserError: the step before had a number that is not finite.
        """
        progress, process = self._progress, self._process
        self.optimizer.zero_grad()
        rows = sum(map(len, batch))
        summed: dict[str, Tensor] = {}
        with tf32(self._settings.precision == "tf32"):
            for part in batch:
                alone = part is not batch[-1] and process.ranks > 1
                with self._wrapped.no_sync() if alone else contextlib.nullcontext():
                    with torch.autocast(
                        process.device.type, torch.bfloat16, self._settings.precision == "bf16"
                    ):
                        losses = self._compute_losses(self._wrapped(part), part)
                    losses = {name: len(part) / rows * loss for name, loss in losses.items()}
                    sum(losses.values()).backward()
                for name, loss in losses.items():
                    summed[name] = summed.get(name, 0) + loss.detach()
        gradients = [parameter.grad for parameter in self._trained if parameter.grad is not None]
        # Where it is 1, Adam leaves parameters, moments and step count as they are, on the device.
        self.optimizer.found_inf, norm = self._guard.flag(
            f"epoch {progress.epoch}, step {progress.step}",
            summed.values(),
            gradients,
            np.concatenate([part.products for part in batch]),
            process.termination.requested,
        )
        self.optimizer.step()
        if self._average:
            self._average.update()
        for name, loss in summed.items():
            progress.losses[name] = progress.losses.get(name, 0) + loss
        self._recent.add({**summed, "gradient norm": norm})
        self._norm.add({"gradient norm": norm})

    def finish(
        self, epoch: int, score: Callable[[], float], describe: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        """Score valid, write the epoch's checkpoint, log; ranks leave together.

        Args:
            epoch: the one that ended; or that ``max_steps`` ended, whose checkpoint is as far as it came.
            score: gives NDCG@5 on valid; called on the main process, in eval mode.
            describe: gives texts by name, for TensorBoard; called likewise. None by default.

        Raises:
            Terminated: a rank was sent SIGTERM.
        """
        process, progress, throughput = self._process, self._progress, self._throughput
        rows = torch.tensor(throughput.rows, dtype=torch.float64, device=process.device)
        sums = torch.stack([*(loss.double() / progress.step for loss in progress.losses.values()), rows])
        if process.ranks > 1:
            distributed.all_reduce(sums)
        *means, throughput.rows = sums.tolist()
        names = list(progress.losses)
        if process.any(throughput.seconds > LONG_SECONDS):
            self._save(STEP)
        ndcg, texts = 0.0, {}
        if process.is_main:
            self.model.eval()
            with self._average_applied():
                began = time.monotonic()
                ndcg = score()
                scoring_seconds = time.monotonic() - began
                texts = describe()
        progress.valid = [*progress.valid, process.broadcast(ndcg)]
        ended = progress.step == self._steps_per_epoch
        if ended:
            self._progress = Progress(epoch + 1, valid=progress.valid)
        path = checkpoint_path(self._settings.checkpoints_dir, epoch)
        self._save(path.name)
        if process.is_main:
            path.with_name(STEP).unlink(missing_ok=True)
            if ended and self._settings.use_epoch == "best":
                self._remove_worse(epoch)
            self._log.end_steps()
            log = EpochLog(
                epoch=epoch,
                losses={name: mean / process.ranks for name, mean in zip(names, means, strict=True)},
                ndcg=ndcg,
                scoring_seconds=scoring_seconds,
                rates=self._name_rates(),
                gradient_norm=self._norm.take().get("gradient norm"),
                throughput=throughput,
                peak_memory=measure_peak_memory(process.device),
                checkpoint=path,
                texts=texts,
            )
            self._log.add_epoch(log)
        if process.any(process.termination.requested):
            raise Terminated(f"terminated after epoch {epoch}: {GO_ON}")

    def _remove_worse(self, epoch: int) -> None:
        """Remove the checkpoints of the epochs before this one, but the best: nothing takes them."""
        best = find_best(self._progress.valid)
        for earlier in range(epoch):
            if earlier != best:
                checkpoint_path(self._settings.checkpoints_dir, earlier).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _average_applied(self) -> Iterator[dict[str, list[Tensor]]]:
        """Have the averages, if there are any, in the model; gives what they replace, for a checkpoint."""
        if self._average is None:
            yield {}
            return
        with self._average.applied() as raw:
            yield {"raw": raw}

    def _save(self, name: str) -> None:
        """Write a checkpoint of what is done, and point to it.

        Raises:
            UserError: the last step had a number that is not finite.
        """
        self._guard.check()
        progress, process = self._progress, self._process
        losses = {key: value.cpu() for key, value in progress.losses.items()}
        ranks = process.gather({"random": get_random_state(process.device), "losses": losses})
        if process.is_main:
            folder = Path(self._settings.checkpoints_dir)
            config = replace(self._config, valid=progress.valid)
            optimizer = self.optimizer.state_dict()
            with self._average_applied() as raw:
                state = {"epoch": progress.epoch, "step": progress.step, "ranks": ranks, **raw}
                write_checkpoint(folder / name, self._parts, config, optimizer=optimizer, state=state)
            point_to(folder, name, process.run)
