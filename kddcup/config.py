"""Sizes and settings. Every flag is a field of a dataclass, which travels in the checkpoint."""

import argparse
import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar, get_args

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, get_loader, set_loader
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from kddcup.errors import UserError

Settings = TypeVar("Settings")
Stage = Literal["multilabel", "model1", "model2"]

MAX_SETTINGS = 20_000
"""Letters of a file of settings; one of all flags has 2,000."""
GROUPS = {
    "Data": (
        *("data_dir", "resources_dir", "split", "models", "test_models", "feature_dtype", "bad_rows"),
        *("max_bad_rows", "images", "show", "language", "train_queries", "eval_queries", "dim"),
    ),
    "Model": ("size", "tokenizer", "encoder", "dropout", "epoch"),
    "Optimisation": (
        *("epochs", "use_epoch", "stop_at_use_epoch", "batch_size", "accumulate", "rate", "encoder_rate"),
        *("weight_decay", "gamma", "search", "normalize"),
    ),
    "Hardware": ("devices", "workers", "precision", "timeout"),
    "Run": (),
}
"""The settings of each group in ``--help`` and in a run's log; one that none names is of the run."""


@dataclass(frozen=True)
class ModelConfig:
    """The widths of all three models; the defaults are the published ones.

    Args:
        region_dim: D, size of a region's feature, as the tables have it.
        width: E, size of a word vector and of a head.
        vocabulary: V, number of words.
        label_heads: H; an image has one caption head and H label heads.
        ff: inner width of the encoder's feed-forward layer.
        dropout: everywhere.
    """

    region_dim: int = 2048
    width: int = 1024
    vocabulary: int = 30522
    label_heads: int = 4
    ff: int = 4096
    dropout: float = 0.1

    @property
    def attention_heads(self) -> int:
        """The largest divisor of D up to 16."""
        return max(n for n in range(1, 17) if self.region_dim % n == 0)

    @property
    def heads(self) -> int:
        """1 + H."""
        return 1 + self.label_heads


@dataclass(frozen=True)
class Recipe:
    """How a stage is trained at a size; the fields are those of :class:`TrainSettings`."""

    batch_size: int
    rate: float
    weight_decay: float
    gamma: float
    epochs: int
    use_epoch: int
    encoder_rate: float | None = None
    dropout: float = ModelConfig.dropout


@dataclass(frozen=True)
class Size:
    """A size: the widths that do not follow from the data, and each stage's recipe."""

    lexicon_width: int
    ff: int
    multilabel: Recipe
    model1: Recipe
    model2: Recipe


SIZES = {
    # As published.
    "full": Size(
        lexicon_width=1024,
        ff=4096,
        multilabel=Recipe(200, 1e-4, 1e-6, 0.96, epochs=20, use_epoch=6),
        model1=Recipe(130, 1e-4, 1e-6, 0.95, epochs=30, use_epoch=5, encoder_rate=5e-6),
        model2=Recipe(150, 1e-4, 1e-6, 0.95, epochs=30, use_epoch=2, encoder_rate=5e-6),
    ),
    # For thousands of rows and a CPU; chosen on the valid tables of the sample and of real pictures.
    "small": Size(
        lexicon_width=128,
        ff=512,
        multilabel=Recipe(16, 5e-4, 1e-6, 0.93, epochs=20, use_epoch=17, dropout=0.2),
        model1=Recipe(32, 3e-4, 1e-6, 0.95, epochs=10, use_epoch=3, encoder_rate=3e-5),
        model2=Recipe(32, 1e-3, 1e-6, 0.95, epochs=10, use_epoch=7, encoder_rate=1e-4),
    ),
}


@dataclass
class TrainSettings:
    """Settings of training, in all three stages.

    Args:
        epochs: how many to train.
        use_epoch: the epoch, counted from 0, that export and validation take unless told otherwise.
        batch_size: rows per process.
        rate: learning rate of epochs 0 and 1; afterwards times gamma each epoch.
        weight_decay: of Adam, where the published training has it.
        gamma: decay of the rate per epoch.
        data_dir: folder of the tables and of what stage 1 wrote.
        checkpoints_dir: where model-epochN.pth go.
        resume: go on from where the run in checkpoints_dir was last saved; torchrun's restarts do so unasked.
        save_every: steps between saves within an epoch; 0 saves at its end alone.
        stop_at_use_epoch: end after use_epoch instead of after the last epoch.
        devices: GPUs, by number, one for each process; without a GPU it has no effect.
        seed: of weights, order, negatives and dropout.
        dropout: probability, in all modules.
        workers: processes per rank that read batches; 0 reads in a thread of the training process.
        precision: of the layers in training; bf16 is by autocast, losses and parameters stay float32.
        timeout: seconds that processes wait for one another; rank 0 scores the valid table meanwhile.
    """

    epochs: PositiveInt
    use_epoch: NonNegativeInt
    batch_size: PositiveInt
    rate: PositiveFloat
    weight_decay: NonNegativeFloat
    gamma: PositiveFloat
    data_dir: str = "../data"
    checkpoints_dir: str = "./checkpoints"
    resume: bool = False
    save_every: NonNegativeInt = 0
    stop_at_use_epoch: bool = False
    devices: list[int] = dataclasses.field(default_factory=list)
    seed: NonNegativeInt = 2020
    dropout: ClosedUnitInterval = 0.1
    workers: NonNegativeInt = 0
    precision: Literal["float32", "bf16"] = "float32"
    timeout: PositiveInt = 1800

    def rate_factor(self, epoch: int) -> float:
        """γ^max(0, e−1) for epoch e from 0."""
        return self.gamma ** max(0, epoch - 1)


@dataclass
class PretrainSettings(TrainSettings):
    """Settings of training in stage 2.

    Args:
        size: of the model and its recipe; by default the one that stage 1 was told.
        accumulate: micro-batches that a batch is computed in, one after the other, to save memory; the
            update is that of the whole batch.
    """

    size: Literal["full", "small"] | None = None
    accumulate: PositiveInt = 1


@dataclass
class MatcherSettings(TrainSettings):
    """Settings of training in stages 3 and 4.

    Args:
        encoder_rate: learning rate of the image encoder's dense and dense_summary.
        encoder: the image encoder that stage 2 exported; its config gives the size.
    """

    encoder_rate: PositiveFloat = 5e-6
    encoder: str = "../user_data/image_encoder_large.pth"


@dataclass
class PointwiseSettings(MatcherSettings):
    """Settings of training in stage 4.

    Args:
        accumulate: micro-batches that a batch is computed in, one after the other, to save memory; the
            update is that of the whole batch.
    """

    accumulate: PositiveInt = 1


class Parser(ArgumentParser):
    """Ends in one line where a flag is wrong, as the rest of a script does where a file is."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what :func:`kddcup.errors.run_script` shows."""
        raise UserError(f"{message}; see --help") from ex


def _read_yaml(text: str) -> Any:
    # The YAML library calls itself for what is nested, until it runs out of stack.
    if len(text) > MAX_SETTINGS:
        raise yaml.YAMLError(f"it has more than {MAX_SETTINGS:,} letters, as no settings have")
    try:
        return get_loader("yaml")(text)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of the description, in which the examples are."""


def parse_settings(
    kind: type[Settings],
    description: str | None,
    stage: Stage | None = None,
    size: Callable[[Namespace], str] | None = None,
    args: list[str] | None = None,
) -> Settings:
    """Settings from flags and ``--config FILE.yaml``, of which the later wins, over the dataclass' defaults.

    Args:
        kind: a dataclass whose docstring describes each field.
        description: shown by ``--help``.
        stage: whose recipe gives the defaults of the fields that it shares with ``kind``; ``--help`` shows
            those of the full size.
        size: tells the size from the settings so far; needed with ``stage``.
        args: instead of the command line's.

    Raises:
        UserError: a flag or a setting is not one, or is of another kind.
    """
    set_loader("settings", _read_yaml, (yaml.YAMLError,))
    parser = Parser(description=description, formatter_class=_HelpFormatter, parser_mode="settings")
    parser.add_argument("--config", action="config", help="a YAML file of any of these settings")
    docs = [parse_docstring(parent.__doc__ or "") for parent in kind.__mro__]
    helps = {param.arg_name: param.description for doc in docs for param in doc.params}
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    for title, names in grouped(types).items():
        group = parser.add_argument_group(title)
        for name in names:
            group.add_argument(f"--{name}", help=helps[name], **_options(types[name]))
        if title == "Hardware" and issubclass(kind, TrainSettings):
            # Of PyTorch 2's and PyTorch 1's launcher; the environment says the same, and torchrun only there.
            group.add_argument(
                "--local-rank", "--local_rank", type=int, help="set by torch.distributed.launch"
            )
    parser.set_defaults(defaults(kind, stage, "full"))
    if stage:
        parser.set_defaults(defaults(kind, stage, size(parser.parse_args(args))))
    values = parser.parse_args(args)
    return kind(**{name: _plain(getattr(values, name)) for name in types})


def grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of settings by the title of their group, groups in the order of :data:`GROUPS`."""
    group_of = {name: title for title, members in GROUPS.items() for name in members}
    found: dict[str, list[str]] = {title: [] for title in GROUPS}
    for name in names:
        found[group_of.get(name, "Run")].append(name)
    return {title: members for title, members in found.items() if members}


def defaults(kind: type, stage: Stage | None, size: str) -> dict[str, Any]:
    """The defaults of the dataclass ``kind``: its own, over which goes the stage's recipe at a size."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            found[field.name] = field.default
    recipe = dataclasses.asdict(getattr(SIZES[size], stage)) if stage else {}
    names = {field.name for field in dataclasses.fields(kind)}
    return found | {name: value for name, value in recipe.items() if name in names}


def _options(kind: Any) -> dict[str, Any]:
    """How a flag of a type is parsed."""
    if kind is bool:
        return {"action": "store_true"}
    if kind in (list[int], list[str]):
        return {"type": get_args(kind)[0], "nargs": "+"}
    choices = [name for one in get_args(kind) for name in get_args(one)]
    if choices:  # of a Literal that may be None
        return {"type": kind, "metavar": f"{{{','.join(choices)}}}"}
    return {"type": kind}


def _plain(value: Any) -> Any:
    """A number of jsonargparse's restricted types as a plain one, which a checkpoint can hold."""
    for number in (float, int):
        if isinstance(value, number) and not isinstance(value, bool):
            return number(value)
    return value


@dataclass
class ValidationSettings:
    """Settings of validation, in all three stages.

    Args:
        data_dir: folder of the tables.
        checkpoints_dir: by default ./checkpoints if it has that epoch, else ./ckpt.
        epoch: of the checkpoint, from 0; by default the one that its config says to use.
        devices: the GPU, by number; without a GPU it has no effect.
        tokenizer: a BERT folder, for a checkpoint that carries no vocabulary.
    """

    data_dir: str = "../data"
    checkpoints_dir: str | None = None
    epoch: NonNegativeInt | None = None
    devices: list[int] = dataclasses.field(default_factory=list)
    tokenizer: str | None = None
