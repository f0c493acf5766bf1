"""What every training loop needs: its data, steps, checkpoints, resuming, log."""

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import xxhash
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from kddcup.checkpoint import (
    STEP,
    Checkpoint,
    RunConfig,
    checkpoint_path,
    finite_copy,
    load_moments,
    newest_checkpoint,
    point_to,
    write_checkpoint,
)
from kddcup.config import SIZES, ModelConfig, TrainSettings
from kddcup.corpus import Info, open_info
from kddcup.errors import Terminated, UserError
from kddcup.files import reason
from kddcup.guard import FinitenessGuard
from kddcup.loader import Batch
from kddcup.log import EpochLog, Pace, named_rates, peak_memory
from kddcup.markers import read_marker
from kddcup.predictions import check_answered, read_answers
from kddcup.processes import Process, code_version
from kddcup.regions import RegionStore
from kddcup.scoring import Scorer, Split, check_dimension, score_table
from kddcup.tsv import Table

MUST_STAY = ("seed", "batch_size", "dropout")
"""Settings that a resumed run has to have as before."""
MAY_DIFFER = ("data_dir", "checkpoints_dir", "encoder", "devices", "workers")
"""Settings that ranks need not share: hosts have folders of their own."""
GO_ON = "go on with --resume"


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
        return RunConfig(size, model, self.info.vocabulary.to_dict(), asdict(settings), self.digest())

    def counts(self) -> dict[str, int]:
        """How many training rows, queries and products there are."""
        corpus = self.info.corpus
        return {
            "rows": len(corpus.row_query),
            "queries": len(corpus.query_ids),
            "products": len(self.store.product_ids),
        }

    def digest(self) -> str:
        """Changes with any byte of what stage 1 wrote."""
        folders = (self.valid.data_dir / name for name in ("features", "info"))
        sums = [read_marker(folder, "python preprocess.py --data_dir DATA")["files"] for folder in folders]
        return xxhash.xxh3_64_hexdigest(json.dumps(sums, sort_keys=True).encode())

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


class Batches(Protocol):
    """What an epoch is trained on."""

    def __len__(self) -> int:
        """Batches per epoch."""

    def epoch(self, epoch: int, device: torch.device, first: int) -> Iterator[list[Batch]]:
        """The batches of an epoch from the batch ``first`` on, each as its micro-batches."""


@dataclass
class _Progress:
    """How far a run has come: steps of an epoch that are done, and this rank's sums of their losses."""

    epoch: int = 0
    step: int = 0
    losses: dict[str, Tensor] = field(default_factory=dict)


class _Losses(nn.Module):
    """A module's losses; an empty batch has none, but gradients of zero, which the other ranks wait for."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if len(batch.queries):
            return self.module(batch)
        return {"none": sum(0 * one.sum() for one in self.parameters() if one.requires_grad)}


class Trainer:
    """Trains a module whose forward gives the losses of a batch.

    Args:
        process: this process.
        module: on the CPU; ``forward(batch)`` gives scalar losses by name, whose sum is minimised.
        groups: Adam's parameter groups, each with ``params``, ``lr`` and, if any, ``weight_decay``.
        parts: what a checkpoint holds, by name.
        settings: of the run.
        config: what the checkpoints say of the run.

    Raises:
        UserError: the ranks have different code, data or settings, or the run cannot be resumed.
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
        self._agree()
        self.module = module.to(process.device)
        self.optimizer = torch.optim.Adam(groups, fused=True)
        self._trained = [one for group in self.optimizer.param_groups for one in group["params"]]
        self._guard = FinitenessGuard(process.rank, process.ranks, process.device)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._rate_names = named_rates(self.module, self.optimizer.param_groups)
        # From here on, each rank has dropout of its own.
        torch.manual_seed(settings.seed + process.rank)
        self._progress = _Progress()
        if settings.resume or process.restarted:
            self._resume()
        # Gives all ranks the parameters of rank 0.
        self._wrapped = DistributedDataParallel(_Losses(self.module)) if process.ranks > 1 else self.module

    def _agree(self) -> None:
        told = {
            "code": code_version(),
            "PyTorch": torch.__version__,
            "data": self._config.data,
            "vocabulary": xxhash.xxh3_64_hexdigest(json.dumps(self._config.vocabulary).encode()),
            "model": str(self._config.model),
        }
        flags = {f"--{key}": value for key, value in asdict(self._settings).items() if key not in MAY_DIFFER}
        self._process.agree({**told, **flags})

    def _resume(self) -> None:
        """Go back to where the run was last saved. Rank 0 reads; the others may lack its files."""
        settings, process = self._settings, self._process
        saved = self._read_saved() if process.is_main else None
        saved = process.from_main(saved)
        if saved is None:
            process.say(f"{settings.checkpoints_dir} has nothing to resume: starting from epoch 0")
            return
        try:
            load_moments(self.optimizer, saved["optimizer"])
            state = saved["state"]
            if len(state["ranks"]) != process.ranks:
                raise UserError(
                    f"{settings.checkpoints_dir} was trained by {len(state['ranks'])} processes, "
                    f"not {process.ranks}: resume with as many"
                )
            own = state["ranks"][process.rank]
            _set_random_state(own["random"], process.device)
            losses = {name: finite_copy(value, (), process.device) for name, value in own["losses"].items()}
            self._progress = _Progress(int(state["epoch"]), int(state["step"]), losses)
            if min(self._progress.epoch, self._progress.step) < 0:
                raise ValueError("an epoch and a step are counted from 0")
            if bool(losses) != bool(self._progress.step):
                raise ValueError("the losses are not those of the steps")
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            raise UserError(
                f"the newest checkpoint of {settings.checkpoints_dir} cannot be resumed "
                f"({type(error).__name__}: {reason(error)}): train anew without --resume"
            ) from None
        process.say(
            f"resuming {settings.checkpoints_dir} at epoch {self._progress.epoch}, step {self._progress.step}"
        )

    def _read_saved(self) -> dict[str, Any] | None:
        """Load the newest checkpoint's parts; gives its optimizer and its state."""
        # A restart goes on with what the run itself has saved, and not with an earlier run in the folder.
        run = None if self._settings.resume else self._process.run
        path = newest_checkpoint(self._settings.checkpoints_dir, run)
        if path is None:
            return None
        checkpoint = Checkpoint.read(path, "train.py without --resume")
        for name in MUST_STAY:
            before, now = checkpoint.config.training.get(name), getattr(self._settings, name)
            if before != now:
                raise UserError(f"{path} was trained with --{name} {before}, not {now}: resume with the same")
        if checkpoint.config.data != self._config.data:
            raise UserError(
                f"{path} was trained on other data than {self._settings.data_dir} holds now: "
                "resume with the data of before, or train anew without --resume"
            )
        checkpoint.load_into(self._parts)
        return {name: checkpoint.parts.get(name) for name in ("optimizer", "state")}

    def epochs(self) -> range:
        """The epochs to train, from the one that is not finished."""
        settings = self._settings
        last = settings.use_epoch + 1 if settings.stop_at_use_epoch else settings.epochs
        return range(self._progress.epoch, last)

    def steps(self, epoch: int, batches: Batches) -> None:
        """Train on an epoch's batches that have not been trained on.

        Args:
            epoch: from 0.
            batches: of this rank.

        Raises:
            UserError: a step had a number that is not finite.
            Terminated: a rank was sent SIGTERM; the run has been saved.
        """
        progress, settings, count = self._progress, self._settings, len(batches)
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
            group["lr"] = rate * settings.rate_factor(epoch)
        self._pace = pace = Pace()
        started = time.monotonic()
        hidden = None if self._process.is_main else True
        with tqdm(desc=f"epoch {epoch}", total=count, initial=progress.step, disable=hidden) as bar:
            asked = time.monotonic()
            for batch in batches.epoch(epoch, self._process.device, progress.step):
                pace.waited += time.monotonic() - asked
                for name, loss in self.step(batch, f"epoch {epoch}, step {progress.step}").items():
                    progress.losses[name] = progress.losses.get(name, 0) + loss
                progress.step += 1
                pace.steps += 1
                bar.update()
                due = settings.save_every and progress.step % settings.save_every == 0
                if self._guard.told_to_stop or (due and progress.step < count):
                    self._save(STEP)
                if self._guard.told_to_stop:
                    raise Terminated(f"terminated after epoch {epoch}, step {progress.step - 1}: {GO_ON}")
                asked = time.monotonic()
        self._guard.check()
        pace.seconds = time.monotonic() - started

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
                share = len(part.queries) / max(1, total)
                losses = {key: share * loss for key, loss in losses.items()}
                sum(losses.values()).backward()
            for key, loss in losses.items():
                summed[key] = summed.get(key, 0) + loss.detach()
        gradients = [one.grad for one in self._trained if one.grad is not None]
        products = np.concatenate([part.products for part in batch])
        # Where it is 1, Adam leaves parameters, moments and step count as they are, on the device.
        self.optimizer.found_inf = self._guard.flag(
            name, summed.values(), gradients, products, self._process.termination.asked
        )
        self.optimizer.step()
        return summed if total else {}

    def finish(
        self, epoch: int, score: Callable[[], float], describe: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        """Write the epoch's checkpoint, score valid, log; ranks leave together.

        Args:
            epoch: the one that ended.
            score: gives NDCG@5 on valid; called on the main process, in eval mode.
            describe: gives texts by name, for TensorBoard; called likewise. None by default.

        Raises:
            Terminated: a rank was sent SIGTERM.
        """
        process, progress = self._process, self._progress
        means = torch.stack([loss.float() for loss in progress.losses.values()]) / progress.step
        if process.ranks > 1:
            distributed.all_reduce(means)
            means /= process.ranks
        names = list(progress.losses)
        self._progress = _Progress(epoch + 1)
        path = checkpoint_path(self._settings.checkpoints_dir, epoch)
        self._save(path.name)
        if process.is_main:
            path.with_name(STEP).unlink(missing_ok=True)
            self.module.eval()
            rates = (group["lr"] for group in self.optimizer.param_groups)
            log = EpochLog(
                epoch=epoch,
                losses=dict(zip(names, means.tolist(), strict=True)),
                ndcg=score(),
                rates=dict(zip(self._rate_names, rates, strict=True)),
                pace=self._pace,
                samples=self._settings.batch_size * process.ranks,
                peak_memory=peak_memory(process.device),
                checkpoint=path,
                texts=describe(),
            )
            process.say(log.line())
            log.write()
        if process.any(process.termination.asked):
            raise Terminated(f"terminated after epoch {epoch}: {GO_ON}")

    def _save(self, name: str) -> None:
        """Write a checkpoint of what is done, and point to it.

        Raises:
            UserError: the last step had a number that is not finite.
        """
        self._guard.check()
        losses = {key: value.cpu() for key, value in self._progress.losses.items()}
        ranks = self._process.gathered({"random": _random_state(self._process.device), "losses": losses})
        if self._process.is_main:
            folder = Path(self._settings.checkpoints_dir)
            state = {"epoch": self._progress.epoch, "step": self._progress.step, "ranks": ranks}
            write_checkpoint(
                folder / name, self._parts, self._config, optimizer=self.optimizer.state_dict(), state=state
            )
            point_to(folder, name, self._process.run)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
