"""Checkpoints: the parts of a model by name and shape, and the config that travels with them."""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kddcup.config import SIZES, ModelConfig
from kddcup.errors import UserError
from kddcup.files import read_json, read_tensors, reason, write_json, write_tensors
from kddcup.text import Vocabulary

PUBLISHED_EPOCHS = {"multilabel": 6, "model1": 5, "model2": 2}
"""The epoch used, where a checkpoint names none."""
_NAME = re.compile(r"model-epoch(\d+)\.pth")
STEP = "last-step.pth"
"""The checkpoint within an epoch; the epoch's own takes its place."""
POINTER = "resume.json"
"""Names the checkpoint to go on from. The epochs of an earlier run may lie in the folder of a newer one."""


@dataclass
class RunConfig:
    """What a checkpoint says of the run that made it, in plain types.

    Args:
        size: ``full`` or ``small``.
        model: the widths.
        vocabulary: of :meth:`kddcup.text.Vocabulary.to_dict`; None in published checkpoints.
        training: the settings that were in force.
        data: digest of the training data.
    """

    size: str = "full"
    model: ModelConfig = field(default_factory=ModelConfig)
    vocabulary: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    data: str | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunConfig":
        """The inverse of ``dataclasses.asdict``.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, left over, or of another type.
        """
        config = cls(**{**values, "model": ModelConfig(**values["model"])})
        if config.size not in SIZES:
            raise ValueError(f"size {config.size!r}")
        for one in fields(ModelConfig):
            value = getattr(config.model, one.name)
            if type(value) is not one.type or value < 0:
                raise ValueError(f"{one.name} {value!r}")
        if not isinstance(config.training, dict) or not isinstance(config.vocabulary, dict | None):
            raise TypeError("no settings by name")
        return config


@dataclass
class Checkpoint:
    """A checkpoint that has been read; one without a config gets the published one."""

    path: Path
    parts: dict[str, Any]
    config: RunConfig

    @classmethod
    def read(cls, path: str | os.PathLike, made_by: str) -> "Checkpoint":
        """Read a file of :func:`write_checkpoint`, or a published one.

        Raises:
            UserError: it is absent, torn, unsafe, or not a checkpoint; ``made_by`` is the command named.
        """
        parts = read_tensors(path, f"make it with '{made_by}'")
        if not isinstance(parts, dict) or not all(isinstance(name, str) for name in parts):
            raise UserError(f"{path} is no checkpoint: make it with '{made_by}'")
        try:
            config = RunConfig.from_dict(parts["config"]) if "config" in parts else RunConfig()
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(
                f"{path} has a config that does not fit ({error}): make it with '{made_by}'"
            ) from None
        return cls(Path(path), parts, config)

    def load_into(self, modules: Mapping[str, nn.Module]) -> None:
        """Load the part of each name into its module, strictly: every parameter found, none left over.

        Raises:
            UserError: a part is missing, or names and shapes do not fit; lists what does not.
        """
        for name, module in modules.items():
            if not isinstance(self.parts.get(name), dict):
                raise UserError(f"{self.path} has no part '{name}'; it has {', '.join(self.parts)}")
            load_strictly(module, self.parts[name], f"{self.path}, part '{name}'")

    def vocabulary(self, tokenizer: str | None) -> Vocabulary:
        """The checkpoint's own vocabulary; of a checkpoint without one, that of the folder ``tokenizer``.

        Raises:
            UserError: there is neither, or it has more words than the checkpoint.
        """
        if self.config.vocabulary is not None:
            try:
                return Vocabulary.from_dict(self.config.vocabulary)
            except (TypeError, ValueError) as error:
                raise UserError(f"{self.path} carries a vocabulary that does not fit ({error})") from None
        if tokenizer is None:
            raise UserError(
                f"{self.path} carries no vocabulary: name its BERT folder with '--tokenizer FOLDER'"
            )
        vocabulary = Vocabulary.read(tokenizer)
        if len(vocabulary) != self.config.model.vocabulary:
            raise UserError(
                f"{tokenizer} has {len(vocabulary)} words and {self.path} {self.config.model.vocabulary}: "
                "name the folder of the BERT that it was trained with"
            )
        return vocabulary


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict of exactly the module's names and shapes.

    Raises:
        UserError: lists, after ``source``, what is missing, left over, or of another shape.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    misfits = [f"{name} is missing" for name in wanted if name not in found]
    misfits += [f"{name} is left over" for name in found if name not in wanted]
    misfits += [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if misfits:
        raise UserError(f"{source} does not fit the model: {'; '.join(misfits)}")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:  # of what only looks like a tensor of that shape
        raise UserError(f"{source} does not fit the model: {reason(error)}") from None


def load_encoder(path: str | os.PathLike) -> tuple[Mapping[str, Tensor], RunConfig]:
    """The image encoder that stage 2 exported, or a bare state dict of one.

    Raises:
        UserError: the file is absent or unsafe.
    """
    checkpoint = Checkpoint.read(path, "cd multilabel; python train.py; python export_model.py")
    return checkpoint.parts.get("item", checkpoint.parts), checkpoint.config


def write_checkpoint(
    path: Path, modules: Mapping[str, nn.Module], config: RunConfig, **entries: dict[str, Any]
) -> None:
    """Write the state of modules by name, the config, and further entries (``optimizer``, ``state``)."""
    states = {name: module.state_dict() for name, module in modules.items()}
    write_tensors(path, {**states, **entries, "config": asdict(config)})


def checkpoint_path(folder: str | os.PathLike, epoch: int) -> Path:
    """``FOLDER/model-epochN.pth``."""
    return Path(folder) / f"model-epoch{epoch}.pth"


def checkpoint_epochs(folder: str | os.PathLike) -> list[int]:
    """The epochs of which a folder has a checkpoint, in no order."""
    names = (_NAME.fullmatch(path.name) for path in Path(folder).glob("model-epoch*.pth"))
    return [int(name[1]) for name in names if name]


def point_to(folder: str | os.PathLike, name: str | None) -> None:
    """Say which checkpoint of the folder ``--resume`` goes on from; None for the start of a run."""
    write_json(Path(folder) / POINTER, {"checkpoint": name, "run": os.environ.get("TORCHELASTIC_RUN_ID")})


def newest_checkpoint(folder: str | os.PathLike, restarted: bool = False) -> Path | None:
    """The checkpoint to go on from; without :data:`POINTER` that of the last epoch; None for the start.

    Args:
        folder: of the checkpoints.
        restarted: by torchrun, nobody having asked to resume: an earlier run's is not gone on from.

    Raises:
        UserError: the pointer is torn, or names no checkpoint of the folder.
    """
    pointer = Path(folder) / POINTER
    if not pointer.is_file():
        epochs = checkpoint_epochs(folder)
        return checkpoint_path(folder, max(epochs)) if epochs and not restarted else None
    advice = "remove it to go on from the last epoch"
    content = read_json(pointer, advice)
    name = content.get("checkpoint") if isinstance(content, dict) else ""
    if name is None or (restarted and content.get("run") != os.environ.get("TORCHELASTIC_RUN_ID")):
        return None
    if not isinstance(name, str) or not (name == STEP or _NAME.fullmatch(name)):
        raise UserError(f"{pointer} names no checkpoint: {advice}")
    if not (Path(folder) / name).is_file():
        raise UserError(f"{pointer} names {name}, which is not there: {advice}")
    return Path(folder) / name


def find_checkpoint(stage: str, folder: str | None, epoch: int | None) -> Checkpoint:
    """The checkpoint that validation and export take; says which it took.

    Args:
        stage: ``multilabel``, ``model1`` or ``model2``.
        folder: where to look; by default ``./checkpoints`` if it has that epoch, else ``./ckpt``.
        epoch: by default the ``use_epoch`` of the config of the checkpoints in the folder, or the published
            epoch where they have no config.

    Raises:
        UserError: there is none.
    """
    folders = [folder] if folder else ["./checkpoints", "./ckpt"]
    made_by = f"cd {stage}; python train.py"
    looked = []
    for place in folders:
        present = sorted(checkpoint_epochs(place))
        wanted = _use_epoch(stage, Path(place), made_by) if epoch is None else epoch
        if epoch is None and wanted in present and _is_of_earlier_run(Path(place), wanted, made_by):
            raise UserError(
                f"{checkpoint_path(place, wanted)} is of an earlier run, and that in {place} is not so far: "
                f"go on with '{made_by} --resume', or name an epoch with --epoch"
            )
        if wanted in present:
            print(f"{stage}: epoch {wanted} of {place}")
            return Checkpoint.read(checkpoint_path(place, wanted), made_by)
        wish = "checkpoint" if wanted is None else f"model-epoch{wanted}.pth"
        looked.append(f"{place} has no {wish} (epochs there: {present or 'none'})")
    raise UserError(f"{', '.join(looked)}; train it with '{made_by}', or name another with --epoch")


def _use_epoch(stage: str, folder: Path, made_by: str) -> int | None:
    """What the newest checkpoint of the folder says; None where there is no checkpoint."""
    paths = [checkpoint_path(folder, epoch) for epoch in checkpoint_epochs(folder)]
    if not paths:
        return None
    newest = Checkpoint.read(max(paths, key=lambda path: path.stat().st_mtime), made_by)
    return newest.config.training.get("use_epoch", PUBLISHED_EPOCHS[stage])


def _is_of_earlier_run(folder: Path, epoch: int, made_by: str) -> bool:
    """Whether the run that :data:`POINTER` is of has not finished an epoch of which there is a file."""
    if not (folder / POINTER).is_file():
        return False
    newest = newest_checkpoint(folder)
    if newest is None:
        return True
    if newest.name == STEP:
        state = Checkpoint.read(newest, made_by).parts.get("state")
        return isinstance(state, dict) and state.get("epoch", 0) <= epoch
    return int(_NAME.fullmatch(newest.name)[1]) < epoch
