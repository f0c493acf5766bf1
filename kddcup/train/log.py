"""What a run logs: its settings at the start, a line after each epoch, curves and texts for TensorBoard."""

import resource
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from kddcup.cli import find_defaults, group_fields, read_docstring
from kddcup.config import TrainSettings
from kddcup.stages import Stage
from kddcup.train.checkpoint import RunConfig
from kddcup.train.processes import Process

FOLDER = "tensorboard"
"""Within the folder of the checkpoints."""


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
        losses: means over the epoch's steps and all ranks, by name.
        ndcg: NDCG@5 on valid.
        rates: learning rates, by the parts of the model that they are of.
        throughput: of the main process, but for its rows.
        peak_memory: bytes, of the main process; see :func:`measure_peak_memory`.
        checkpoint: what was written.
        texts: by name, for TensorBoard.
    """

    epoch: int
    losses: Mapping[str, float]
    ndcg: float
    rates: Mapping[str, float]
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

    def format_line(self) -> str:
        """All of it but the texts, as one line."""
        losses = "  ".join(f"{name} {value:.4f}" for name, value in self.losses.items())
        parts = [f"epoch {self.epoch}: {losses}", f"valid NDCG@5 {self.ndcg:.4f}"]
        parts.append("rate " + ", ".join(f"{name} {rate:.3g}" for name, rate in self.rates.items()))
        if self.speed:
            speed, waiting = self.speed.values()
            parts.append(
                f"{self.throughput.seconds:.0f} s, {speed:,.0f} samples/s, {waiting:.1%} waiting for data"
            )
        parts.append(f"peak memory {self.peak_memory / 1e9:.2f} GB")
        return "  ".join([*parts, str(self.checkpoint)])

    def write(self) -> None:
        """Add it to what TensorBoard shows; what was there of this epoch and later ones goes.

        It lies beside the checkpoint, in :data:`FOLDER`.
        """
        # Takes time to import, and only the main process writes.
        from torch.utils.tensorboard import SummaryWriter

        scalars = {
            **{f"loss/{name}": value for name, value in self.losses.items()},
            **{f"rate/{name}": value for name, value in self.rates.items()},
            "valid/NDCG@5": self.ndcg,
            **{f"speed/{name}": value for name, value in self.speed.items()},
        }
        # A file for each epoch: none is left open while a run trains, or torn when it is killed.
        with SummaryWriter(self.checkpoint.parent / FOLDER, purge_step=self.epoch) as writer:
            for name, value in scalars.items():
                writer.add_scalar(name, value, self.epoch)
            for name, text in self.texts.items():
                writer.add_text(name, textwrap.indent(text, " " * 4), self.epoch)  # as it stands, in Markdown


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
        f"{stage.name}, size {config.size}, on {process.device} in {process.ranks} process"
        f"{'es' if process.ranks > 1 else ''}, PyTorch {torch.__version__}",
        "  " + ", ".join(f"{name} {count:,}" for name, count in counts.items()),
        f"  parameters {total:,}, of which {trained:,} are trained; {widths}",
    ]
    for group, names in group_fields(type(settings)).items():
        lines.append(f"  {read_docstring(group)[0]}: " + ", ".join(f"{name} {shown[name]}" for name in names))
    return "\n".join(lines)
