"""Going on from where a run was last saved: parameters, moments, progress and random states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kddcup.config import TrainSettings
from kddcup.io.errors import UserError, explain_error
from kddcup.train.checkpoint import Checkpoint, RunConfig
from kddcup.train.folder import find_newest
from kddcup.train.processes import Process

MUST_STAY = ("seed", "batch_size", "dropout")
"""Settings that a resumed run has to have as before."""


@dataclass
class Progress:
    """How far a run has come: steps of an epoch that are done, and this rank's sums of their losses."""

    epoch: int = 0
    step: int = 0
    losses: dict[str, Tensor] = field(default_factory=dict)


def resume(
    process: Process,
    settings: TrainSettings,
    config: RunConfig,
    parts: Mapping[str, nn.Module],
    optimizer: torch.optim.Adam,
) -> Progress:
    """Go back to where the run was last saved. Rank 0 reads; the others may lack its files.

    Args:
        process: this process.
        settings: of the run.
        config: of the run.
        parts: of the model, on the process' device; their parameters are loaded on rank 0.
        optimizer: its moments are loaded.

    Returns:
        how far the run has come; its start where nothing was saved.

    Raises:
        UserError: the checkpoint is of another run, or torn.
    """
    saved = _read_saved(process, settings, config, parts) if process.is_main else None
    saved = process.broadcast(saved)
    if saved is None:
        process.say(f"{settings.checkpoints_dir} has nothing to resume: starting from epoch 0")
        return Progress()
    try:
        load_moments(optimizer, saved["optimizer"])
        state = saved["state"]
        if len(state["ranks"]) != process.ranks:
            raise UserError(
                f"{settings.checkpoints_dir} was trained by {len(state['ranks'])} processes, "
                f"not {process.ranks}: resume with as many"
            )
        own = state["ranks"][process.rank]
        set_random_state(own["random"], process.device)
        losses = {name: copy_finite(value, (), process.device) for name, value in own["losses"].items()}
        progress = Progress(int(state["epoch"]), int(state["step"]), losses)
        if min(progress.epoch, progress.step) < 0:
            raise ValueError("an epoch and a step are counted from 0")
        if bool(losses) != bool(progress.step):
            raise ValueError("the losses are not those of the steps")
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise UserError(
            f"the newest checkpoint of {settings.checkpoints_dir} cannot be resumed "
            f"({type(error).__name__}: {explain_error(error)}): train anew without --resume"
        ) from None
    process.say(f"resuming {settings.checkpoints_dir} at epoch {progress.epoch}, step {progress.step}")
    return progress


def _read_saved(
    process: Process, settings: TrainSettings, config: RunConfig, parts: Mapping[str, nn.Module]
) -> dict[str, Any] | None:
    """Load the newest checkpoint's parts; gives its optimizer and its state."""
    # A restart goes on with what the run itself has saved, and not with an earlier run in the folder.
    path = find_newest(settings.checkpoints_dir, None if settings.resume else process.run)
    if path is None:
        return None
    checkpoint = Checkpoint.read(path, "train.py without --resume")
    for name in MUST_STAY:
        before, now = checkpoint.config.training.get(name), getattr(settings, name)
        if before != now:
            raise UserError(f"{path} was trained with --{name} {before}, not {now}: resume with the same")
    if checkpoint.config.data != config.data:
        raise UserError(
            f"{path} was trained on other data than {settings.data_dir} holds now: "
            "resume with the data of before, or train anew without --resume"
        )
    checkpoint.load_into(parts)
    return {name: checkpoint.parts.get(name) for name in ("optimizer", "state")}


def load_moments(optimizer: torch.optim.Adam, saved: Mapping[str, Any]) -> None:
    """Take over Adam's moments and steps; rates and decays stay those of this run.

    They are copied, one by one: the fused step of PyTorch writes where it takes a moment of the parameter's
    size to be, and a checkpoint that is mapped would keep its file's space for as long as the run lasts.

    Args:
        optimizer: of this run.
        saved: a checkpoint's ``optimizer``, which may be of any origin.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: these are not the moments of these parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {}
    for number, entry in saved["state"].items():
        parameter = parameters[number]
        moments[number] = {
            "step": copy_finite(entry["step"], (), torch.device("cpu")),
            "exp_avg": copy_finite(entry["exp_avg"], parameter.shape, parameter.device),
            "exp_avg_sq": copy_finite(entry["exp_avg_sq"], parameter.shape, parameter.device),
        }
        if min(moments[number]["step"], moments[number]["exp_avg_sq"].min()) < 0:
            raise ValueError("a number of steps or a second moment is negative")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def copy_finite(value: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    """Copy a float32 tensor of this shape that was read from a file.

    Raises:
        ValueError, AttributeError: it is another, or a number in it is not finite.
    """
    if value.shape != torch.Size(shape) or value.dtype != torch.float32 or value.layout != torch.strided:
        raise ValueError(f"a tensor {list(value.shape)} of {value.dtype} is there for one {list(shape)}")
    if not value.isfinite().all():
        raise ValueError("a number is not finite")
    return torch.empty(shape, device=device).copy_(value)


def get_random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of this process' generators."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Put this process' generators into the states of :func:`get_random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
