"""The one table of the stages that train a model; a new matcher is one more entry."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kddcup.config import MatcherRecipe, Model2Recipe, ModelConfig, Recipe
from kddcup.io.errors import UserError

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

    def predictions_path(self, resources_dir: Path, table: Literal["valid", "test"]) -> Path:
        """Where the predictions of the valid or the test table are, unless one says otherwise."""
        return resources_dir / f"{table}_pred_{self.name}.json"


STAGES = (
    Stage(
        name="multilabel",
        kind="encoder",
        model="multilabel.model:MultiLabelClassifier",
        parts=(),
        recipes={
            "full": Recipe(batch_size=200, rate=1e-4, weight_decay=1e-6, gamma=0.96, epochs=20, use_epoch=6),
            "small": Recipe(
                batch_size=16, rate=5e-4, weight_decay=1e-6, gamma=0.93, epochs=20, use_epoch=17, dropout=0.2
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
            "full": MatcherRecipe(batch_size=130, rate=1e-4, encoder_rate=5e-6, epochs=30, use_epoch=5),
            "small": MatcherRecipe(batch_size=32, rate=3e-4, encoder_rate=3e-5, epochs=10, use_epoch=3),
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
            "full": Model2Recipe(batch_size=150, rate=1e-4, encoder_rate=5e-6, epochs=30, use_epoch=2),
            "small": Model2Recipe(
                batch_size=32, rate=1e-3, encoder_rate=1e-4, epochs=10, use_epoch=7, start="captioner"
            ),
        },
        published_epoch=2,
    ),
)
"""The full size's recipes are as published; the small ones were chosen on valid tables of a CPU's size."""


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


if __name__ == "__main__":
    # For main.sh: each matcher, and the flags that its validation.py takes there.
    for stage in list_matchers():
        print(stage.name, *(["--explain"] if stage.explains else []))
