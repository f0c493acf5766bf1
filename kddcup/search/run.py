"""A finished run, whose models an index gets: the blend, and each of its models at its epoch to use."""

import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kddcup import stages
from kddcup.io.atomic import atomic_write
from kddcup.io.errors import UserError
from kddcup.nn.ranker import WordRanker
from kddcup.rank.blend import BLEND, MADE_BY, Blend
from kddcup.rank.logistic import LOGISTIC, LogisticRanker
from kddcup.search.models import LOGISTIC_NAME
from kddcup.search.settings import IndexSettings
from kddcup.search.words import count_words, write_words
from kddcup.table.extractor import Extractor
from kddcup.text.segmentation import UserDictionary
from kddcup.train.checkpoint import SAFETENSORS, write_checkpoint
from kddcup.train.folder import find_checkpoint


@dataclass(frozen=True)
class RunFolders:
    """Where a run is.

    Args:
        data: of the tables and of what stage 1 wrote.
        resources: of ``blend.json``.
        checkpoints: of a stage, within its folder.
    """

    data: Path
    resources: Path
    checkpoints: Path

    @classmethod
    def find(cls, data_dir: str, resources_dir: str | None, checkpoints_dir: str | None) -> "RunFolders":
        """Those that are named, or as ``main.sh`` has them: of a folder other than data, by its name."""
        data = Path(data_dir)
        sub = "" if data == Path("data") else data.resolve().name
        resources, checkpoints = Path("external_resources") / sub, Path("checkpoints") / sub
        return cls(data, Path(resources_dir or resources), Path(checkpoints_dir or checkpoints))


class _Trained(ABC):
    """A model of a run.

    Attributes:
        scores_words: whether its scores are made of columns.
        is_encoder: whether it knows what regions count and which images are alike.
        extractor: of the features that it was trained on.
        region_dim: D of these.
        dictionary: by which Chinese queries are cut.
    """

    scores_words: bool
    is_encoder: bool
    extractor: Extractor | None
    region_dim: int
    dictionary: UserDictionary

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write it into the folder of models of an index."""


class _TrainedStage(_Trained):
    """A stage's model at its epoch to use.

    Args:
        stage: whose.
        folders: of the run.
        tokenizer: a BERT folder, for a checkpoint that carries no vocabulary.

    Raises:
        UserError: there is no such checkpoint, or it has no vocabulary.
    """

    def __init__(self, stage: stages.Stage, folders: RunFolders, tokenizer: str | None) -> None:
        self._stage = stage
        self._checkpoint = find_checkpoint(stage, str(Path(stage.name) / folders.checkpoints), None)
        self._vocabulary = self._checkpoint.read_vocabulary(tokenizer)
        config = self._checkpoint.config
        with torch.device("meta"):
            self.scores_words = self.is_encoder = isinstance(stage.build(config.model), WordRanker)
        self.extractor, self.region_dim = config.extractor, config.model.region_dim
        self.dictionary = self._vocabulary.dictionary

    def write(self, folder: Path) -> None:
        """Write its parameters, and the vocabulary with them."""
        model = self._checkpoint.build(self._stage)
        config = replace(self._checkpoint.config, vocabulary=self._vocabulary.to_dict())
        write_checkpoint(folder / f"{self._stage.name}{SAFETENSORS}", self._stage.name_parts(model), config)


class _TrainedLogistic(_Trained):
    """The logistic regression of ``python -m kddcup.baseline``.

    Args:
        folders: of the run.

    Raises:
        UserError: it is absent or torn.
    """

    scores_words, is_encoder = True, False

    def __init__(self, folders: RunFolders) -> None:
        self._path = folders.resources / LOGISTIC
        ranker = LogisticRanker.read(self._path)
        self.extractor, self.region_dim = ranker.extractor, ranker.weights.shape[1]
        self.dictionary = ranker.dictionary

    def write(self, folder: Path) -> None:
        """Copy its file."""
        with atomic_write(folder / LOGISTIC, self._path.stat().st_size) as part:
            shutil.copyfile(self._path, part)


class Run:
    """A finished run.

    Args:
        folders: where it is.
        first: the model that is to rank a whole index; by default the one that does best on valid.
        tokenizer: a BERT folder, for checkpoints that carry no vocabulary.

    Raises:
        UserError: a part of the run is absent, its models are not of the same features, or none of them
            scores word by word.
    """

    def __init__(self, folders: RunFolders, first: str | None, tokenizer: str | None) -> None:
        self.folders, self._blend = folders, Blend.read(folders.resources)
        weights = {model.name: model.weight for model in self._blend.models if model.weight}
        self._trained = {
            name: self._find(name, tokenizer)
            for name in dict.fromkeys([*weights, *([first] if first else [])])
        }
        figures = self._blend.figures["valid"]
        able = [name for name, trained in self._trained.items() if trained.scores_words]
        first = first or max(able, key=lambda name: figures.models.get(name, 0.0), default=None)
        if first not in able:
            raise UserError(
                f"{first or folders.resources / BLEND} does not score word by word, which the first ranking "
                f"needs: name with --first one of {', '.join(able) or 'model1 and multilabel'}"
            )
        encoders = [name for name, trained in self._trained.items() if trained.is_encoder]
        chosen = self._trained[first]
        for name, trained in self._trained.items():
            if (trained.extractor, trained.region_dim) != (chosen.extractor, chosen.region_dim):
                raise UserError(
                    f"{name} and {first} of {folders.resources / BLEND} are of different features: "
                    "train them on the same tables"
                )
        self._dictionary = chosen.dictionary
        self.settings = IndexSettings(
            names=tuple(self._trained),
            weights=weights,
            normalize=self._blend.normalize,
            first=first,
            likeness=first if first in encoders or not encoders else encoders[0],
            region_dim=chosen.region_dim,
            extractor=chosen.extractor,
            valid={**figures.models, "blend": figures.blend},
        )

    def _find(self, name: str, tokenizer: str | None) -> _Trained:
        if name == LOGISTIC_NAME:
            return _TrainedLogistic(self.folders)
        if name not in (stage.name for stage in stages.STAGES):
            raise UserError(
                f"{self.folders.resources / BLEND} blends {name}, of which there is no model to score other "
                f"products with: blend without it, by '{MADE_BY}'"
            )
        return _TrainedStage(stages.find(name), self.folders, tokenizer)

    def write(self, folder: Path) -> None:
        """Write all that an index needs of the run into its folder of models."""
        for trained in self._trained.values():
            trained.write(folder)
        write_words(folder, count_words(self.folders.data, self._dictionary))
        self.settings.write(folder)
