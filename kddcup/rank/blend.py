"""A blend of models' scores, and the file that describes it."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kddcup.io.errors import UserError
from kddcup.io.files import read_json, write_json
from kddcup.rank.fusion import Normalization, normalize, weighted_sum
from kddcup.rank.listing import ListedOnce, put_listed_once_first
from kddcup.rank.predictions import Predictions, read_models

Search = Literal["grid", "exact", "local", "bagged"]
BLEND = "blend.json"
MADE_BY = "python ensemble.py"


@dataclass(frozen=True)
class BlendedModel:
    """A model of a blend.

    Args:
        name: that of its stage, or one that follows from its file's.
        valid: its predictions of the valid table.
        test: its predictions of the test table.
        weight: of its scores in the blend, from 0 to 1.
    """

    name: str
    valid: Path
    test: Path
    weight: float


@dataclass(frozen=True)
class Figures:
    """Mean NDCG@5 on a table.

    Args:
        random: to be expected of a random order.
        models: of each model alone, by name.
        blend: of the blend as it is submitted.
        cross_validated: of the blend's scores on valid, each query at weights that are fitted without it;
            None on other tables, and where there is one query alone.
        by_scores: of the blend in the order of its scores, to which the weights are fitted on valid; None
            where it is submitted so.
    """

    random: float
    models: Mapping[str, float]
    blend: float
    cross_validated: float | None = None
    by_scores: float | None = None


@dataclass(frozen=True)
class Blend:
    """What ``ensemble.py`` blended, as ``blend.json`` beside the submission holds it.

    The file is one JSON object::

        {
          "models": [
            {"name": "model1", "valid": "valid_pred_model1.json", "test": "test_pred_model1.json",
             "weight": 0.6767676767676768},
            {"name": "model2", "valid": "valid_pred_model2.json", "test": "test_pred_model2.json",
             "weight": 0.3232323232323232}
          ],
          "normalize": "none",
          "search": "grid",
          "split": "testB",
          "listed_once": null,
          "ndcg@5": {
            "valid": {"random": 0.1, "models": {"model1": 0.7, "model2": 0.69}, "blend": 0.73,
                      "cross_validated": 0.72, "by_scores": null},
            "testB": {"random": 0.1, "models": {"model1": 0.7, "model2": 0.69}, "blend": 0.73,
                      "cross_validated": null, "by_scores": null}
          }
        }

    Files are named relative to the folder of ``blend.json``. The test table's figures are absent where it has
    no answers.

    Args:
        models: at least one, no two of the same name; where blended scores tie, the order of the first stays.
        normalize: what is done to each model's scores of a query before they are blended.
        search: how the weights were found.
        split: the test table that the models' test predictions are of.
        figures: by table: valid's, and those of the split where it has answers.
        listed_once: ``first`` where candidates whose product is listed under one query alone stand first;
            None where scores alone decide.
    """

    models: tuple[BlendedModel, ...]
    normalize: Normalization
    search: Search
    split: str
    figures: Mapping[str, Figures]
    listed_once: ListedOnce | None = None

    @property
    def weights(self) -> list[float]:
        """One for each model."""
        return [model.weight for model in self.models]

    def paths(self, table: str) -> list[Path]:
        """The models' predictions of ``valid`` or of the split."""
        return [model.valid if table == "valid" else model.test for model in self.models]

    def read_models(self, table: str) -> list[Predictions]:
        """Read the models' predictions of ``valid`` or of the split.

        Raises:
            UserError: as :func:`kddcup.rank.predictions.read_models`.
        """
        return read_models([(path, "python validation.py") for path in self.paths(table)])

    def fuse(self, models: Sequence[Predictions]) -> Predictions:
        """Blend each model's scores of the same candidates; the order is that of the blended scores."""
        return weighted_sum([normalize(scores, self.normalize) for scores in models], self.weights)

    def apply(self, models: Sequence[Predictions]) -> Predictions:
        """Blend each model's scores of a whole table, and order its candidates as they are submitted."""
        fused = self.fuse(models)
        return put_listed_once_first(fused) if self.listed_once else fused

    def describe(self, folder: Path) -> dict[str, Any]:
        """Describe the blend in plain types, as ``blend.json`` of a folder does."""
        return {
            "models": [
                {
                    "name": model.name,
                    "valid": _relative(model.valid, folder),
                    "test": _relative(model.test, folder),
                    "weight": model.weight,
                }
                for model in self.models
            ],
            "normalize": self.normalize,
            "search": self.search,
            "split": self.split,
            "listed_once": self.listed_once,
            "ndcg@5": {table: asdict(figures) for table, figures in self.figures.items()},
        }

    def write(self, folder: Path) -> None:
        """Write ``blend.json`` into a folder."""
        write_json(folder / BLEND, self.describe(folder))

    @classmethod
    def read(cls, folder: Path) -> "Blend":
        """Read ``blend.json`` of a folder.

        Raises:
            UserError: it is absent, torn or of another form, or names predictions that are not there.
        """
        path = folder / BLEND
        content = read_json(path, f"run '{MADE_BY}'")
        try:
            blend = cls._parse(content, folder)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise UserError(f"{path} does not describe a blend: run '{MADE_BY}'") from None
        for source in (*blend.paths("valid"), *blend.paths(blend.split)):
            if not source.is_file():
                raise UserError(f"{source} does not exist, but {path} names it: run '{MADE_BY}'")
        return blend

    @classmethod
    def _parse(cls, content: Any, folder: Path) -> "Blend":
        models = tuple(
            BlendedModel(
                _text(model["name"]),
                folder / model["valid"],
                folder / model["test"],
                _number(model["weight"]),
            )
            for model in content["models"]
        )
        names = {model.name for model in models}
        figures = {
            table: Figures(
                _number(means["random"]),
                {model.name: _number(means["models"][model.name]) for model in models},
                _number(means["blend"]),
                _optional_number(means["cross_validated"]),
                _optional_number(means.get("by_scores")),
            )
            for table, means in content["ndcg@5"].items()
        }
        blend = cls(
            models,
            content["normalize"],
            content["search"],
            _text(content["split"]),
            figures,
            content.get("listed_once"),
        )
        if (
            not 0 < len(models) == len(names)
            or blend.normalize not in get_args(Normalization)
            or blend.search not in get_args(Search)
            or blend.listed_once not in (None, *get_args(ListedOnce))
            or "valid" not in figures
        ):
            raise ValueError
        return blend


def _relative(path: Path, folder: Path) -> str:
    # Of resolved paths, so that a way up leads to the same place where the folder is a link.
    return os.path.relpath(path.resolve(), folder.resolve())


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _optional_number(value: Any) -> float | None:
    return None if value is None else _number(value)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError
    return float(value)
