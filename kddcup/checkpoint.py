"""Checkpoints: the parts of a model by name and shape, and the config that travels with them."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
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
        # A value is not shown, or looked at as a whole: what holds itself a hundred times, a hundred times
        # over, is a short file.
        if not isinstance(config.size, str) or config.size not in SIZES:
            raise ValueError("size is none that there is")
        for one in fields(ModelConfig):
            value = getattr(config.model, one.name)
            if type(value) is not one.type or not (0 <= value <= 1 if one.type is float else value >= 1):
                raise ValueError(f"{one.name} is no {one.type.__name__} that a model can have")
        if not isinstance(config.training, dict) or not isinstance(config.vocabulary, dict | None):
            raise TypeError("no settings by name")
        if not all(isinstance(name, str) and _is_setting(value) for name, value in config.training.items()):
            raise TypeError("a setting is no number, no text and no list of these")
        return config


def _is_setting(value: Any) -> bool:
    plain = str | int | float | None
    return isinstance(value, plain) or (
        isinstance(value, list) and all(isinstance(one, plain) for one in value)
    )


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
                f"{path} has a config that does not fit ({reason(error)}): make it with '{made_by}'"
            ) from None
        return cls(Path(path), parts, config)

    def load_into(self, modules: Mapping[str, nn.Module]) -> None:
        """Load the part of each name into its module, strictly: every parameter found, none left over.

        Raises:
            UserError: a part is missing, or names and shapes do not fit; lists what does not.
        """
        for module, state, source in self._parts_of(modules):
            load_strictly(module, state, source)

    def build(self, make: Callable[[], nn.Module], part: str | None = None) -> nn.Module:
        """A model with the checkpoint's parameters, in eval mode on the CPU.

        Args:
            make: gives a model of the widths that the checkpoint names.
            part: which holds all of it; by default each of its children is a part by itself.

        Raises:
            UserError: as :meth:`load_into`, before anything of the size that a stranger names is made.
        """

        def parts(model: nn.Module) -> dict[str, nn.Module]:
            return dict(model.named_children()) if part is None else {part: model}

        try:
            with torch.device("meta"):
                blank = make()
        except (ValueError, RuntimeError, TypeError) as error:
            raise UserError(f"{self.path} names widths that no model has ({reason(error)})") from None
        for module, state, source in self._parts_of(parts(blank)):
            check_fit(module, state, source)
        model = make()
        self.load_into(parts(model))
        return model.eval()

    def _parts_of(
        self, modules: Mapping[str, nn.Module]
    ) -> Iterator[tuple[nn.Module, Mapping[str, Tensor], str]]:
        for name, module in modules.items():
            if not isinstance(self.parts.get(name), dict):
                raise UserError(f"{self.path} has no part '{name}'; it has {', '.join(self.parts)}")
            yield module, self.parts[name], f"{self.path}, part '{name}'"

    def vocabulary(self, tokenizer: str | None) -> Vocabulary:
        """The checkpoint's own vocabulary; of a checkpoint without one, that of the folder ``tokenizer``.

        Raises:
            UserError: there is neither, or it has more words than the checkpoint.
        """
        words = self.config.model.vocabulary
        if self.config.vocabulary is not None:
            try:
                vocabulary = Vocabulary.from_dict(self.config.vocabulary)
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{self.path} carries a vocabulary that does not fit ({reason(error)})"
                ) from None
            if len(vocabulary) > words:
                raise UserError(
                    f"{self.path} carries a vocabulary of {len(vocabulary)} words for {words} word vectors: "
                    "get it again"
                )
            return vocabulary
        if tokenizer is None:
            raise UserError(
                f"{self.path} carries no vocabulary: name its BERT folder with '--tokenizer FOLDER'"
            )
        vocabulary = Vocabulary.read(tokenizer)
        if len(vocabulary) != words:
            raise UserError(
                f"{tokenizer} has {len(vocabulary)} words and {self.path} {words}: "
                "name the folder of the BERT that it was trained with"
            )
        return vocabulary


def check_fit(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """See that a state dict is of exactly the module's names and shapes.

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
    misfits += [
        f"{name} is no dense tensor" for name in wanted if name in found and not _is_dense(state[name])
    ]
    if misfits:
        raise UserError(f"{source} does not fit the model: {'; '.join(misfits)}")


def _is_dense(value: object) -> bool:
    """Whether it is a tensor with as many numbers in the file as its shape says."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.untyped_storage().nbytes() >= value.nbytes
    )


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict of exactly the module's names and shapes; errors as :func:`check_fit`."""
    check_fit(module, state, source)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:  # of what only looks like a tensor of that shape
        raise UserError(f"{source} does not fit the model: {reason(error)}") from None


def load_moments(optimizer: torch.optim.Adam, saved: Mapping[str, Any]) -> None:
    """Take over Adam's moments and steps; rates and decays stay those of this run.

    They are copied, one by one: the fused step of PyTorch writes where it takes a moment of the parameter's
    size to be, and a checkpoint that is mapped would keep its file's space for as long as the run lasts.

    Args:
        optimizer: of this run.
        saved: a checkpoint's ``optimizer``, which may be a stranger's.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: these are not the moments of these parameters.
    """
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    moments = {}
    for number, one in saved["state"].items():
        parameter = parameters[number]
        moments[number] = {
            "step": finite_copy(one["step"], (), torch.device("cpu")),
            "exp_avg": finite_copy(one["exp_avg"], parameter.shape, parameter.device),
            "exp_avg_sq": finite_copy(one["exp_avg_sq"], parameter.shape, parameter.device),
        }
        if min(moments[number]["step"], moments[number]["exp_avg_sq"].min()) < 0:
            raise ValueError("a number of steps or a second moment is negative")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def finite_copy(value: Tensor, shape: Sequence[int], device: torch.device) -> Tensor:
    """A copy of a stranger's float32 tensor of this shape.

    Raises:
        ValueError, AttributeError: it is another, or a number in it is not finite.
    """
    if value.shape != torch.Size(shape) or value.dtype != torch.float32 or value.layout != torch.strided:
        raise ValueError(f"a tensor {list(value.shape)} of {value.dtype} is there for one {list(shape)}")
    if not value.isfinite().all():
        raise ValueError("a number is not finite")
    return torch.empty(shape, device=device).copy_(value)


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


def point_to(folder: str | os.PathLike, name: str | None, run: str) -> None:
    """Say which checkpoint of the folder the ``run`` is to be gone on from; None for its start."""
    write_json(Path(folder) / POINTER, {"checkpoint": name, "run": run})


def newest_checkpoint(folder: str | os.PathLike, run: str | None = None) -> Path | None:
    """The checkpoint to go on from; without :data:`POINTER` that of the last epoch; None for the start.

    Args:
        folder: of the checkpoints.
        run: whose checkpoint it has to be; by default any run's.

    Raises:
        UserError: the pointer is torn, or names no checkpoint of the folder.
    """
    pointer = Path(folder) / POINTER
    if not pointer.is_file():
        epochs = checkpoint_epochs(folder)
        return checkpoint_path(folder, max(epochs)) if epochs and run is None else None
    advice = "remove it to go on from the last epoch"
    content = read_json(pointer, advice)
    name = content.get("checkpoint") if isinstance(content, dict) else ""
    if name is None or (run is not None and content.get("run") != run):
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
