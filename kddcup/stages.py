"""The one table of the stages that train a model; a new matcher is one more entry."""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kddcup import config as configs
from kddcup.config import ModelConfig, Recipe
from kddcup.io.errors import UserError, run_script

if TYPE_CHECKING:
    from kddcup.nn.ranker import Ranker


@dataclass(frozen=True)
class Stage:
    """A stage that trains a model.

    Args:
        name: of its folder, of its checkpoints' part of a release, and of its predictions.
        kind: ``encoder`` pretrains the image encoder that the matchers start from; a ``matcher``'s scores are
            blended.
        model: path of its class, a :class:`kddcup.nn.ranker.Ranker` made from a :class:`ModelConfig`.
        parts: the model's children that are parts of a checkpoint; none where all of it is ``model``.
        recipes: by size.
        published_epoch: the epoch to use of checkpoints without a config, as the published ones are.
        explains: whether its validation.py takes ``--explain``, for the evaluation page.
    """

    name: str
    kind: Literal["encoder", "matcher"]
    model: str
    parts: tuple[str, ...]
    recipes: Mapping[str, Recipe]
    published_epoch: int | None = None
    explains: bool = False

    def build(self, config: ModelConfig) -> "Ranker":
        """Make the stage's model; its parameters are random."""
        module, name = self.model.split(":")
        return getattr(importlib.import_module(module), name)(config)

    def name_parts(self, model: "Ranker") -> dict[str, "Ranker"]:
        """The parts of a checkpoint, by name."""
        return {name: getattr(model, name) for name in self.parts} or {"model": model}


STAGES = (
    Stage(
        name="multilabel",
        kind="encoder",
        model="multilabel.model:MultiLabelClassifier",
        parts=(),
        recipes={
            "full": configs.PretrainRecipe(
                batch_size=200, rate=1e-4, weight_decay=1e-6, gamma=0.96, epochs=20, use_epoch=6
            ),
            "small": configs.PretrainRecipe(
                batch_size=32,
                rate=1e-3,
                weight_decay=0.1,
                gamma=0.96,
                epochs=30,
                use_epoch="best",
                epoch_steps=50,
                average=0.98,
                labels="product",
                optimizer="adamw",
                feature_length=10.0,
                feature_noise=0.3,
                region_drop=0.3,
            ),
        },
        published_epoch=6,
    ),
    Stage(
        name="model1",
        kind="matcher",
        model="model1.model:WordImageModel",
        parts=("query", "item", "score"),
        recipes={
            "full": configs.Model1Recipe(
                batch_size=130, rate=1e-4, encoder_rate=5e-6, epochs=30, use_epoch=5
            ),
            "small": configs.Model1Recipe(
                batch_size=32,
                rate=3e-4,
                encoder_rate=3e-5,
                epochs=10,
                use_epoch="best",
                epoch_steps=50,
                positives="worded",
                start="tagger",
                margin=0.2,
                mean_epochs=1,
            ),
        },
        published_epoch=5,
        explains=True,
    ),
    Stage(
        name="model2",
        kind="matcher",
        model="model2.model:SentenceImageModel",
        parts=("item", "score"),
        recipes={
            "full": configs.Model2Recipe(
                batch_size=150, rate=1e-4, encoder_rate=5e-6, epochs=30, use_epoch=2
            ),
            "small": configs.Model2Recipe(
                batch_size=32,
                rate=1e-3,
                encoder_rate=1e-4,
                epochs=10,
                use_epoch="best",
                epoch_steps=50,
                positives="worded",
                start="captioner",
            ),
        },
        published_epoch=2,
    ),
)
"""The full size's recipes are as published; the small ones were chosen on valid tables of a CPU's size."""
BASELINES = ("logistic", "neighbours")
"""The rankers of ``python -m kddcup.baseline``, whose predictions have the form of a stage's."""


def find(name: str) -> Stage:
    """Find a stage by its name.

    Raises:
        UserError: there is none.
    """
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise UserError(f"unknown stage {name}: choose one of {', '.join(stage.name for stage in STAGES)}")


def list_matchers() -> list[Stage]:
    """List the stages whose scores are blended, in their order."""
    return [stage for stage in STAGES if stage.kind == "matcher"]


def list_rankers() -> list[str]:
    """List the names of all that writes predictions."""
    return [*(stage.name for stage in STAGES), *BASELINES]


def list_blended(size: str) -> list[str]:
    """List the names of what is blended at a size by default.

    At full size these are the matchers, as published. Small tables gain from stage 2's tags and from logistic
    regression too.
    """
    if size == "full":
        return [stage.name for stage in list_matchers()]
    return [*(stage.name for stage in STAGES), "logistic"]


def predictions_path(resources_dir: Path, table: Literal["valid", "test"], ranker: str) -> Path:
    """Where the predictions of a stage or a baseline for the valid or the test table are by default."""
    return resources_dir / f"{table}_pred_{ranker}.json"


def name_command(ranker: str) -> str:
    """Name the command that writes the predictions of a stage, a baseline, or of something unknown."""
    if ranker in BASELINES:
        return "python -m kddcup.baseline"
    return f"cd {ranker}; python validation.py" if ranker in list_rankers() else "python validation.py"


def main() -> None:
    """Print what main.sh blends, one a line: its kind, its name, and flags of its validation.py.

    Takes the size, and optionally names instead of those of :func:`list_blended`.

    Raises:
        UserError: a name is not known.
    """
    size, *names = sys.argv[1:]
    for name in names or list_blended(size):
        if name in BASELINES:
            print("baseline", name)
            continue
        if name not in list_rankers():
            raise UserError(f"MODELS names {name}, which is none of {', '.join(list_rankers())}")
        stage = find(name)
        print(stage.kind, name, *(["--explain"] if stage.explains else []))


if __name__ == "__main__":
    run_script(main)
