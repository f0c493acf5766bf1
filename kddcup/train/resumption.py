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

MUST_STAY = ("seed", "batch_size", "dropout", "epoch_steps", "labels", "feature_length")
"""Settings, of those that a stage has, that a resumed run has to have as before."""


@dataclass
class Progress:
    """How far a run has come.

    Args:
        epoch: that is being trained.
        step: how many of its steps are done.
        losses: this rank's sums over these steps, by name.
        valid: NDCG@5 on valid after each of the epochs before.
    """

    epoch: int = 0
    step: int = 0
    losses: dict[str, Tensor] = field(default_factory=dict)
    valid: list[float] = field(default_factory=list)


@dataclass
class Resumed:
    """Where a run goes on.

    Args:
        progress: how far it has come.
        raw: on the main process, the trained parameters where the model now has their averages.
    """

    progress: Progress = field(default_factory=Progress)
    raw: list[Tensor] | None = None


def resume(
    process: Process,
    settings: TrainSettings,
    config: RunConfig,
    parts: Mapping[str, nn.Module],
    optimizer: torch.optim.Adam,
) -> Resumed:
    """Go back to where the run was last saved. Rank 0 reads; the others may lack its files.

    Args:
        process: this process.
        settings: of the run.
        config: of the run.
        parts: of the model, on the process' device; their parameters are loaded on rank 0.
        optimizer: its moments are loaded.

    Returns:
        where the run goes on; its start where nothing was saved.

    Raises:
        UserError: the checkpoint is of another run, or torn.
    """
    saved = _read_saved(process, settings, config, parts) if process.is_main else None
    # The others get the parameters from rank 0 later.
    raw = saved["state"].pop("raw", None) if saved and isinstance(saved["state"], dict) else None
    saved = process.broadcast(saved)
    if saved is None:
        process.say(f"{settings.checkpoints_dir} has nothing to resume: starting from epoch 0")
        return Resumed()
    try:
        load_moments(optimizer, saved["optimizer"])
        progress = _read_progress(saved["state"], process)
        progress.valid = saved["valid"][: progress.epoch]
        if len(progress.valid) < progress.epoch and settings.use_epoch == "best":
            raise ValueError("it does not say how well its epochs did, so that none is the best")
        raw = _read_raw(raw, optimizer)
    except ValueError as error:
        raise UserError(
            f"the newest checkpoint of {settings.checkpoints_dir} cannot be resumed "
            f"({explain_error(error)}): train anew without --resume"
        ) from None
    process.say(f"resuming {settings.checkpoints_dir} at epoch {progress.epoch}, step {progress.step}")
    return Resumed(progress, raw)


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
        if not hasattr(settings, name):
            continue
        # A checkpoint of an earlier version has been trained as the default says.
        default = getattr(type(settings), name, None)
        before, now = checkpoint.config.training.get(name, default), getattr(settings, name)
        if before != now:
            raise UserError(f"{path} was trained with --{name} {before}, not {now}: resume with the same")
    if checkpoint.config.data != config.data:
        raise UserError(
            f"{path} was trained on other data than {settings.data_dir} holds now: "
            "resume with the data of before, or train anew without --resume"
        )
    checkpoint.load_into(parts)
    saved = {name: checkpoint.parts.get(name) for name in ("optimizer", "state")}
    return {**saved, "valid": checkpoint.config.valid}


def _read_progress(state: Any, process: Process) -> Progress:
    """Read how far a run has come, and set this process' random state.

    Raises:
        UserError: the run had another number of processes.
        ValueError: this is not the state of a run.
    """
    match state:
        case {"epoch": int(epoch), "step": int(step), "ranks": list(ranks)}:
            pass
        case _:
            raise ValueError("it has no epoch, no step or no states of its processes")
    if min(epoch, step) < 0:
        raise ValueError("an epoch and a step are counted from 0")
    if len(ranks) != process.ranks:
        raise UserError(
            f"the newest checkpoint was trained by {len(ranks)} processes, "
            f"not {process.ranks}: resume with as many"
        )
    match ranks[process.rank]:
        case {"random": dict(random), "losses": dict(losses)}:
            pass
        case _:
            raise ValueError("it has no random state or no losses of a process")
    if bool(losses) != bool(step):
        raise ValueError("the losses are not those of the steps")
    set_random_state(random, process.device)
    losses = {name: copy_finite(value, (), process.device) for name, value in losses.items()}
    return Progress(epoch, step, losses)


def _read_raw(raw: Any, optimizer: torch.optim.Adam) -> list[Tensor] | None:
    """Read the values of the optimizer's parameters.

    Raises:
        ValueError: these are others.
    """
    if raw is None:
        return None
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not isinstance(raw, list) or len(raw) != len(parameters):
        raise ValueError("its parameters are not those that are trained")
    pairs = zip(raw, parameters, strict=True)
    return [copy_finite(value, parameter.shape, parameter.device) for value, parameter in pairs]


def load_moments(optimizer: torch.optim.Adam, saved: Any) -> None:
    """Take over Adam's moments and steps; rates and decays stay those of this run.

    They are copied, one by one: the fused step of PyTorch writes where it takes a moment of the parameter's
    size to be, and a checkpoint that is mapped would keep its file's space for as long as the run lasts.

    Args:
        optimizer: of this run.
        saved: a checkpoint's ``optimizer``, which may be of any origin.

    Raises:
        ValueError: these are not the moments of these parameters.
    """
    match saved:
        case {"state": dict(entries)}:
            pass
        case _:
            raise ValueError("it has no moments")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {}
    for number, entry in entries.items():
        match entry:
            case {"step": step, "exp_avg": mean, "exp_avg_sq": square} if isinstance(
                number, int
            ) and 0 <= number < len(parameters):
                parameter = parameters[number]
            case _:
                raise ValueError("it has moments of other parameters, or incomplete ones")
        moments[number] = {
            "step": copy_finite(step, (), torch.device("cpu")),
            "exp_avg": copy_finite(mean, parameter.shape, parameter.device),
            "exp_avg_sq": copy_finite(square, parameter.shape, parameter.device),
        }
        if min(moments[number]["step"], moments[number]["exp_avg_sq"].min()) < 0:
            raise ValueError("a number of steps or a second moment is negative")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def copy_finite(value: Any, shape: Sequence[int], device: torch.device) -> Tensor:
    """Copy a float32 tensor of this shape that was read from a file.

    Raises:
        ValueError: it is another, or a number in it is not finite.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        raise ValueError(f"something else is there for a tensor {list(shape)}")
    if value.shape != torch.Size(shape) or value.dtype != torch.float32:
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
    """Put this process' generators into the states of :func:`get_random_state`.

    Raises:
        ValueError: they are of something else.
    """
    try:
        torch.set_rng_state(state.get("cpu"))
        if device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], device)
    except (TypeError, RuntimeError, AttributeError) as error:  # PyTorch's, of what is no state
        raise ValueError(f"a random state is none: {error}") from None
