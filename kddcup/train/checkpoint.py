"""Checkpoints: the parts of a model by name and shape, and the config that travels with them."""

import contextlib
import itertools
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kddcup.config import SIZES, ModelConfig
from kddcup.io.errors import UserError, explain_error
from kddcup.io.tensors import (
    check_weights,
    read_safetensors,
    read_tensors,
    write_safetensors,
    write_tensors,
)
from kddcup.nn.ranker import Ranker
from kddcup.stages import STAGES, Stage
from kddcup.table.extractor import Extractor, check_same_extractor, read_extractor
from kddcup.text.vocabulary import END, START, Vocabulary

CAPTION_TOKENS = {"start": START, "end": END}
"""The tokens whose ids a model has to know, by their fields of :class:`ModelConfig`."""
WIDTHS = {
    "region_dim": (1, 1 << 17),
    "width": (4, 1 << 14),
    "vocabulary": (1, 1 << 20),
    "label_heads": (1, 64),
    "ff": (1, 1 << 17),
    "dropout": (0, 1),
    "start": (1, 1 << 20),
    "end": (1, 1 << 20),
    "tagger": (0, 1),
    "captioner": (0, 1),
    "feature_length": (0, 1 << 20),
}
"""The bounds of a model's widths, by the fields of :class:`ModelConfig`, in a checkpoint of any origin."""
OF_A_STAGE = ("dropout", "tagger", "captioner")
"""The fields of :class:`ModelConfig` in which a matcher may differ from the encoder that it starts from."""
SAFETENSORS = ".safetensors"
"""The suffix of checkpoints in that format; those of all others are of PyTorch's."""
MAX_LISTED = 20
"""The number of names that an error lists."""
CAPTIONER = "captioner"
"""The part of stage 2's export that holds its captioner."""
_WRAPPED = "module."


@dataclass
class RunConfig:
    """What a checkpoint says of the run that made it, in plain types.

    Args:
        size: ``full`` or ``small``.
        model: the widths.
        vocabulary: of :meth:`kddcup.text.vocabulary.Vocabulary.to_dict`; None in published checkpoints.
        training: the settings that were in force.
        data: digest of the training data.
        extractor: what made the features of the training data; None where that is unknown.
        valid: NDCG@5 on valid after the epochs 0, 1, … so far.
    """

    size: str = "full"
    model: ModelConfig = field(default_factory=ModelConfig)
    vocabulary: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    extractor: Extractor | None = None
    valid: list[float] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunConfig":
        """The inverse of ``dataclasses.asdict``.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, left over, or of another type.
        """
        model, vocabulary = dict(values["model"]), values.get("vocabulary")
        if vocabulary and "start" not in model:  # of a version that did not note them
            model |= {name: vocabulary["tokens"].index(token) for name, token in CAPTION_TOKENS.items()}
        extractor = values.get("extractor")
        if extractor is not None:
            extractor = Extractor.from_dict(extractor)
        config = cls(**{**values, "model": ModelConfig(**model), "extractor": extractor})
        if not isinstance(config.size, str) or config.size not in SIZES:
            raise ValueError("size is none that there is")
        for width in fields(ModelConfig):
            value, (least, most) = getattr(config.model, width.name), WIDTHS[width.name]
            if type(value) is not width.type or not least <= value <= most:
                raise ValueError(f"{width.name} is no {width.type.__name__} from {least:,} to {most:,}")
        if not isinstance(config.training, dict) or not isinstance(config.vocabulary, dict | None):
            raise TypeError("no settings by name")
        if not all(isinstance(name, str) and _is_setting(value) for name, value in config.training.items()):
            raise TypeError("a setting is neither a number nor a text nor a list of these")
        figures = config.valid if isinstance(config.valid, list) else [None]
        if not all(isinstance(figure, float) and math.isfinite(figure) for figure in figures):
            raise TypeError("valid is no list of figures")
        return config


def find_best(valid: Sequence[float]) -> int | None:
    """Find the epoch with the highest NDCG@5; of equals the first, of none None."""
    return max(range(len(valid)), key=valid.__getitem__, default=None)


def _is_setting(value: Any) -> bool:
    plain = str | int | float | None
    return isinstance(value, plain) or (
        isinstance(value, list) and all(isinstance(item, plain) for item in value)
    )


@dataclass
class Checkpoint:
    """A checkpoint that has been read; one without a config gets the published one."""

    path: Path
    parts: dict[str, Any]
    config: RunConfig

    @classmethod
    def read(cls, path: str | os.PathLike, made_by: str) -> "Checkpoint":
        """Read a file of :func:`write_checkpoint`, or a published one, or the parts of one as safetensors.

        The prefix ``module.`` that DistributedDataParallel gives to all names of a part is taken off.

        Raises:
            UserError: it is absent, torn, unsafe, or not a checkpoint; ``made_by`` is the command named.
        """
        advice = f"make it with '{made_by}'"
        read = _read_safetensors if Path(path).suffix == SAFETENSORS else read_tensors
        parts = read(path, advice)
        if not isinstance(parts, dict) or not all(isinstance(name, str) for name in parts):
            raise UserError(f"{path} is not a checkpoint: {advice}")
        parts = _drop_prefix({name: _drop_prefix(part) for name, part in parts.items()})
        try:
            config = RunConfig.from_dict(parts["config"]) if "config" in parts else RunConfig()
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(
                f"{path} has a config that does not fit ({explain_error(error)}): {advice}"
            ) from None
        return cls(Path(path), parts, config)

    def check_extractor(self, data_dir: str | os.PathLike) -> None:
        """See that the features of the tables in a folder are by the extractor that the model was trained on.

        Raises:
            UserError: they are by another.
        """
        check_same_extractor(
            self.config.extractor,
            str(self.path),
            read_extractor(Path(data_dir)),
            str(data_dir),
            "extract the tables as the model's were, or train a model on these",
        )

    def load_into(self, modules: Mapping[str, nn.Module]) -> None:
        """Load the part of each name into its module, strictly: every parameter found, none left over.

        Raises:
            UserError: a part is missing, or names and shapes do not fit; lists what does not.
        """
        for module, state, source in self._find_parts(modules):
            load_strictly(module, state, source)

    def build(self, stage: Stage) -> Ranker:
        """Build a stage's model with the checkpoint's parameters, in eval mode on the CPU.

        Raises:
            UserError: as :meth:`load_into`, before memory of the size that the file names is taken.
        """
        with torch.device("meta"):
            blank = stage.build(self.config.model)
        try:
            self._check_fit(stage.name_parts(blank))
        except UserError:
            if owner := self._find_owner():
                raise UserError(
                    f"{self.path} is a checkpoint of {owner.name}: name one of {stage.name}"
                ) from None
            raise
        model = stage.build(self.config.model)
        self.load_into(stage.name_parts(model))
        return model.eval()

    def _check_fit(self, modules: Mapping[str, nn.Module]) -> None:
        for module, state, source in self._find_parts(modules):
            check_fit(module, state, source)

    def _find_owner(self) -> Stage | None:
        """Find the stage whose model has exactly these parts, names and shapes."""
        for stage in STAGES:
            with torch.device("meta"):
                blank = stage.build(self.config.model)
            with contextlib.suppress(UserError):
                self._check_fit(stage.name_parts(blank))
                return stage
        return None

    def _find_parts(
        self, modules: Mapping[str, nn.Module]
    ) -> Iterator[tuple[nn.Module, Mapping[str, Tensor], str]]:
        for name, module in modules.items():
            if not isinstance(self.parts.get(name), dict):
                raise UserError(f"{self.path} has no part '{name}'; it has {list_some(self.parts, ', ')}")
            yield module, self.parts[name], f"{self.path}, part '{name}'"

    def read_vocabulary(self, tokenizer: str | None) -> Vocabulary:
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
                    f"{self.path} carries a vocabulary that does not fit ({explain_error(error)})"
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
    if misfits:
        raise UserError(f"{source} does not fit the model: {list_some(misfits, '; ')}")


def list_some(items: Collection[str], separator: str) -> str:
    """List items in a line, of many the first ones and how many more there are."""
    more = [f"and {len(items) - MAX_LISTED} more"] if len(items) > MAX_LISTED else []
    return separator.join([*itertools.islice(items, MAX_LISTED), *more])


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict of exactly the module's names and shapes, and of finite numbers.

    Raises:
        UserError: as :func:`check_fit`; or a tensor is of other numbers, or one is not finite.
    """
    check_fit(module, state, source)
    for name, own in module.state_dict().items():
        try:
            check_weights(state[name], own.dtype)
        except ValueError as error:
            raise UserError(f"{source} does not fit the model: {name} {error}") from None
    module.load_state_dict(state)


def _drop_prefix(part: Any) -> Any:
    """Take ``module.`` off the names of a part, if all have it."""
    if isinstance(part, dict) and all(str(name).startswith(_WRAPPED) for name in part):
        return {name.removeprefix(_WRAPPED): value for name, value in part.items()}
    return part


def _read_safetensors(path: str | os.PathLike, advice: str) -> dict[str, Any]:
    """Read the parts of a checkpoint from names like ``item.norm.weight``, and its config."""
    tensors, metadata = read_safetensors(path, advice)
    names = {name for stage in STAGES for name in stage.parts} | {"model", CAPTIONER}
    parts: dict[str, Any] = {}
    for name, value in tensors.items():
        part, _, own = name.removeprefix(_WRAPPED).partition(".")
        if part not in names:  # a bare state dict
            parts = dict(tensors)
            break
        parts.setdefault(part, {})[own] = value
    if "config" in metadata:
        try:
            parts["config"] = json.loads(metadata["config"])
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path} has a config that is not JSON ({explain_error(error)}): {advice}"
            ) from None
    return parts


@dataclass
class ExportedEncoder:
    """The image encoder that stage 2 exported with its captioner, or a bare state dict of an encoder."""

    path: str
    state: Mapping[str, Tensor]
    config: RunConfig
    captioner: Mapping[str, Tensor] | None

    @classmethod
    def read(cls, path: str) -> "ExportedEncoder":
        """Read the file.

        Raises:
            UserError: it is absent or unsafe.
        """
        checkpoint = Checkpoint.read(path, "cd multilabel; python train.py; python export_model.py")
        if "model" in checkpoint.parts:
            raise UserError(
                f"{path} is a checkpoint of stage 2: export its encoder with 'python export_model.py'"
            )
        parts = checkpoint.parts
        return cls(path, parts.get("item", parts), checkpoint.config, parts.get(CAPTIONER))

    def check_made_for(self, config: RunConfig, data_dir: str) -> None:
        """See that the encoder was trained on data as those of a run with ``config``.

        Raises:
            UserError: it was not; names the widths or the extractors that differ.
        """
        advice = "run stage 2 on this data"
        check_same_extractor(self.config.extractor, self.path, config.extractor, data_dir, advice)
        if self.config.vocabulary is None:  # a bare state dict says nothing of its data; its shapes tell
            return
        own, wanted = asdict(self.config.model), asdict(config.model)
        misfits = [
            f"{name} {own[name]}, not {wanted[name]}"
            for name in own
            if own[name] != wanted[name] and name not in OF_A_STAGE
        ]
        if self.config.vocabulary != config.vocabulary:
            misfits.append("another vocabulary")
        if misfits:
            raise UserError(
                f"{self.path} was made for other data than {data_dir} ({', '.join(misfits)}): {advice}"
            )

    def load_into(self, item: nn.Module) -> None:
        """Load it, strictly; errors as :func:`load_strictly`."""
        load_strictly(item, self.state, self.path)

    def load_captioner_into(self, captioner: nn.Module) -> None:
        """Load the captioner, strictly.

        Raises:
            UserError: as :func:`load_strictly`; or the file has none, as those of earlier versions.
        """
        if not isinstance(self.captioner, dict):
            raise UserError(
                f"{self.path} has no captioner: export stage 2 anew with 'python export_model.py', "
                "or train with '--start encoder'"
            )
        load_strictly(captioner, self.captioner, f"{self.path}, part '{CAPTIONER}'")


def write_checkpoint(
    path: Path, modules: Mapping[str, nn.Module], config: RunConfig, **entries: dict[str, Any]
) -> None:
    """Write the state of modules by name, the config, and further entries (``optimizer``, ``state``).

    As safetensors, which hold tensors and text alone, only where the path says so and there are no entries.
    """
    states = {name: module.state_dict() for name, module in modules.items()}
    if path.suffix == SAFETENSORS:
        tensors = {f"{part}.{name}": value for part, state in states.items() for name, value in state.items()}
        write_safetensors(path, tensors, {"config": json.dumps(asdict(config))})
    else:
        write_tensors(path, {**states, **entries, "config": asdict(config)})
