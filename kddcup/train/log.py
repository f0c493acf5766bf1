"""What a run tells of itself: its settings, its epochs and their course, as text, curves and JSON lines."""

import datetime
import json
import resource
import textwrap
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from kddcup.cli import find_defaults, group_fields, read_docstring
from kddcup.config import TrainSettings
from kddcup.io.atomic import explain_write_error
from kddcup.io.errors import UserError
from kddcup.stages import Stage
from kddcup.train.checkpoint import RunConfig
from kddcup.train.processes import Process

FOLDER = "tensorboard"
"""Within the folder of the checkpoints."""
STEPS_FOLDER = "steps"
"""Within that one: the curves of steps, which TensorBoard shows as a run of their own."""
LOGGED_STEPS = 100
"""The steps of an epoch after which its course is logged, each time."""
MINUTE = 60.0


@dataclass
class Throughput:
    """What was trained on in an epoch, and how fast; what was done before a resume does not count.

    Args:
        steps: done.
        rows: of all ranks, in the end.
        seconds: that they took, waiting included.
        waited: seconds of these in which the next batch was not there yet.
    """

    steps: int = 0
    rows: int = 0
    seconds: float = 0.0
    waited: float = 0.0


@dataclass
class EpochLog:
    """What is logged of an epoch.

    Args:
        epoch: from 0.
        losses: means over the epoch's steps and all ranks, by name; none of an epoch without steps.
        ndcg: NDCG@5 on valid.
        scoring_seconds: that it took to score valid.
        rates: learning rates, by the parts of the model that they are of.
        gradient_norm: mean over the steps that this call did; None where it did none.
        throughput: of the main process, but for its rows.
        peak_memory: bytes, of the main process; see :func:`measure_peak_memory`.
        checkpoint: what was written.
        texts: by name, for TensorBoard.
    """

    epoch: int
    losses: Mapping[str, float]
    ndcg: float
    scoring_seconds: float
    rates: Mapping[str, float]
    gradient_norm: float | None
    throughput: Throughput
    peak_memory: int
    checkpoint: Path
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def speed(self) -> dict[str, float]:
        """``samples/s`` and ``waiting for data``, a share of the time; none where no step was done."""
        done = self.throughput
        if not done.steps:
            return {}
        return {"samples/s": done.rows / done.seconds, "waiting for data": done.waited / done.seconds}

    @property
    def scalars(self) -> dict[str, float]:
        """All numbers, by the names of their curves."""
        norm = {} if self.gradient_norm is None else {"gradient norm": self.gradient_norm}
        return {
            **_name_scalars(self.losses, self.rates, self.peak_memory),
            **norm,
            "valid/NDCG@5": self.ndcg,
            "valid/seconds": self.scoring_seconds,
            **{f"speed/{name}": value for name, value in self.speed.items()},
        }

    def format_line(self) -> str:
        """All of it but the texts, as one line."""
        losses = _format_losses(self.losses) or "the start"
        parts = [f"epoch {self.epoch}: {losses}", f"valid NDCG@5 {self.ndcg:.4f}"]
        parts.append(_format_rates(self.rates))
        if self.gradient_norm is not None:
            parts.append(f"gradient norm {self.gradient_norm:.3g}")
        if self.speed:
            speed, waiting = self.speed.values()
            parts.append(
                f"{self.throughput.seconds:.0f} s, {speed:,.0f} samples/s, {waiting:.1%} waiting for data"
            )
        return "  ".join([*parts, _format_memory(self.peak_memory), str(self.checkpoint)])


@dataclass
class StepLog:
    """What is logged of an epoch's course.

    Args:
        epoch: from 0.
        step: how many of its steps are done.
        steps: how many it has.
        losses: means over the steps since the last such log, of the main process' rows.
        rates: as in :class:`EpochLog`.
        gradient_norm: mean over the same steps.
        speed: samples per second of all ranks in the last minute, if theirs are as many as the main process'.
        seconds_left: of the epoch, at that speed; scoring valid takes more.
        peak_memory: as in :class:`EpochLog`.
    """

    epoch: int
    step: int
    steps: int
    losses: Mapping[str, float]
    rates: Mapping[str, float]
    gradient_norm: float
    speed: float
    seconds_left: float
    peak_memory: int

    @property
    def scalars(self) -> dict[str, float]:
        """The numbers, by the names of their curves."""
        return {
            **_name_scalars(self.losses, self.rates, self.peak_memory),
            "gradient norm": self.gradient_norm,
            "speed/samples/s": self.speed,
            "speed/seconds left": self.seconds_left,
        }

    def format_line(self, now: datetime.datetime) -> str:
        """All of it as one line, with the time of the day at which the epoch's steps end."""
        end = now + datetime.timedelta(seconds=self.seconds_left)
        return "  ".join(
            [
                f"epoch {self.epoch}, step {self.step:,} of {self.steps:,}: {_format_losses(self.losses)}",
                _format_rates(self.rates),
                f"gradient norm {self.gradient_norm:.3g}",
                f"{self.speed:,.0f} samples/s",
                _format_memory(self.peak_memory),
                f"ends {end:%Y-%m-%d %H:%M}",
            ]
        )


def _name_scalars(losses: Mapping[str, float], rates: Mapping[str, float], peak: int) -> dict[str, float]:
    return {
        **{f"loss/{name}": value for name, value in losses.items()},
        **{f"rate/{name}": value for name, value in rates.items()},
        "memory/peak GB": peak / 1e9,
    }


def _format_losses(losses: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in losses.items())


def _format_rates(rates: Mapping[str, float]) -> str:
    return "rate " + ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())


def _format_memory(peak: int) -> str:
    return f"peak memory {peak / 1e9:.2f} GB"


class Pace:
    """How fast the steps of the last minute were."""

    def __init__(self) -> None:
        self._marks = deque([(time.monotonic(), 0)])

    def add(self, now: float, rows: int) -> None:
        """Note that a step of so many rows has ended; ``now`` is of :func:`time.monotonic`."""
        self._marks.append((now, rows))
        while self._marks[1][0] < now - MINUTE:
            self._marks.popleft()

    def measure(self) -> tuple[float, float]:
        """Give rows and steps per second: of the last minute, or of the last step if that took longer."""
        (first, _), *rest = self._marks
        seconds = rest[-1][0] - first
        return sum(rows for _, rows in rest) / seconds, len(rest) / seconds


class RunningMeans:
    """Means of scalars over steps, added up on the device; it is asked for them when they are taken."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add those of a step, by name."""
        self._steps += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value

    def take(self) -> dict[str, float]:
        """Give the means over the steps since the last time; none where there was no step."""
        if not self._steps:
            return {}
        means = (torch.stack(list(self._sums.values())) / self._steps).tolist()
        found = dict(zip(self._sums, means, strict=True))
        self._sums, self._steps = {}, 0
        return found


class RunLog:
    """Where the main process logs: what it prints, TensorBoard's files, and a file of JSON lines.

    Args:
        folder: of the checkpoints; TensorBoard's files go into :data:`FOLDER` there.
        json_path: of the file to which a line is appended for each log, an object of its numbers; or None.

    Raises:
        UserError: that file cannot be written.
    """

    def __init__(self, folder: Path, json_path: str | None) -> None:
        self._folder = folder / FOLDER
        self._json_path = json_path
        self._writer = None
        self._printed = time.monotonic()
        if json_path:
            self._append_json("")

    def add_steps(self, log: StepLog) -> None:
        """Log an epoch's course; it is printed once a minute at most.

        Steps are counted over all epochs in the curves; what was there of this one and later ones goes.
        """
        place = log.epoch * log.steps + log.step
        if self._writer is None:
            # Takes time to import, and only the main process writes.
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._folder / STEPS_FOLDER, purge_step=place)
        for name, value in log.scalars.items():
            self._writer.add_scalar(name, value, place)
        self._writer.flush()
        self._add_json({"epoch": log.epoch, "step": log.step, "steps": log.steps, **log.scalars})
        if time.monotonic() - self._printed >= MINUTE:
            self._printed = time.monotonic()
            with tqdm.external_write_mode():  # so that no bar is in the line
                print(log.format_line(datetime.datetime.now()), flush=True)

    def end_steps(self) -> None:
        """Close the file of the epoch's course."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def add_epoch(self, log: EpochLog) -> None:
        """Log an epoch; what was there of this one and later ones goes from the curves."""
        from torch.utils.tensorboard import SummaryWriter

        print(log.format_line(), flush=True)
        # A file for each epoch: none is left open while a run trains, or torn when it is killed.
        with SummaryWriter(self._folder, purge_step=log.epoch) as writer:
            for name, value in log.scalars.items():
                writer.add_scalar(name, value, log.epoch)
            for name, text in log.texts.items():
                writer.add_text(name, textwrap.indent(text, " " * 4), log.epoch)  # as it stands, in Markdown
        self._add_json({"epoch": log.epoch, **log.scalars, "checkpoint": str(log.checkpoint)})

    def _add_json(self, values: Mapping[str, object]) -> None:
        if self._json_path:
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            self._append_json(json.dumps({"time": now, **values}) + "\n")

    def _append_json(self, line: str) -> None:
        try:
            with open(self._json_path, "a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise UserError(explain_write_error(Path(self._json_path), error)) from None


def describe_device(device: torch.device) -> str:
    """Name a device, and of a GPU the model and the memory."""
    if device.type != "cuda":
        return str(device)
    found = torch.cuda.get_device_properties(device)
    return f"{device} ({found.name}, {found.total_memory / 1e9:.0f} GB)"


def measure_peak_memory(device: torch.device) -> int:
    """The most bytes so far: allocated on a GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def name_groups(module: nn.Module, groups: list[dict]) -> list[str]:
    """The parts of a module whose parameters are in each group of an optimizer, joined by ``+``."""
    parts = {id(parameter): name.split(".")[0] for name, parameter in module.named_parameters()}
    return [
        "+".join(dict.fromkeys(parts[id(parameter)] for parameter in group["params"])) for group in groups
    ]


def format_header(
    stage: Stage,
    settings: TrainSettings,
    config: RunConfig,
    counts: Mapping[str, int],
    model: nn.Module,
    process: Process,
) -> str:
    """What a run starts with, as a block of lines: settings that are not the size's defaults show these too.

    Args:
        stage: that is trained.
        settings: in force.
        config: size and widths.
        counts: of what is trained on, by name.
        model: gives the parameters.
        process: gives the device and the ranks.
    """
    usual = find_defaults(type(settings), stage.recipes[config.size])
    shown = {
        name: str(value) if value == usual[name] else f"{value} (default {usual[name]})"
        for name, value in asdict(settings).items()
    }
    parameters = list(model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    widths = ", ".join(f"{name} {value}" for name, value in asdict(config.model).items())
    lines = [
        f"{stage.name}, size {config.size}, on {describe_device(process.device)} in "
        f"{process.ranks} process"
        f"{'es' if process.ranks > 1 else ''}, PyTorch {torch.__version__}",
        "  " + ", ".join(f"{name} {count:,}" for name, count in counts.items()),
        f"  parameters {total:,}, of which {trained:,} are trained; {widths}",
    ]
    for group, names in group_fields(type(settings)).items():
        lines.append(f"  {read_docstring(group)[0]}: " + ", ".join(f"{name} {shown[name]}" for name in names))
    return "\n".join(lines)
