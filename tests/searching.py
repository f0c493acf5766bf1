"""A finished run of random models, for tests of search: what counts there is exactness, not quality."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from kddcup import stages
from kddcup.io.files import write_json
from kddcup.rank.blend import Blend, BlendedModel, Figures
from kddcup.train.checkpoint import Checkpoint, write_checkpoint
from kddcup.train.folder import checkpoint_path

WEIGHTS = {"model1": 0.6, "model2": 0.4}


def write_run(root: Path, trained: Path, weights: dict[str, float] = WEIGHTS, seed: int = 0) -> None:
    """Write checkpoints of models and their blend as a run of main.sh on ``trained``'s tables leaves them.

    Args:
        root: the folder that is the repository's to them.
        trained: of stages 1 and 2.
        weights: of the blended models, by name.
        seed: of their parameters.
    """
    torch.manual_seed(seed)
    encoder = Checkpoint.read(trained / "encoder.pth", "")
    words = Checkpoint.read(trained / "multilabel" / "model-epoch0.pth", "").parts["model"]["embed.weight"]
    config = replace(encoder.config, training={**encoder.config.training, "use_epoch": 0})
    for name in weights:
        stage = stages.find(name)
        model = stage.build(config.model)
        for part in model.modules():
            embed = getattr(part, "embed", None)
            if isinstance(embed, torch.nn.Embedding):
                embed.weight.data.copy_(words)
        folder = root / name / "checkpoints" / "data"
        folder.mkdir(parents=True)
        write_checkpoint(checkpoint_path(folder, 0), stage.name_parts(model), config)
    resources = root / "external_resources" / "data"
    resources.mkdir(parents=True)
    blended = []
    for name, weight in weights.items():
        paths = [resources / f"{table}_pred_{name}.json" for table in ("valid", "test")]
        for path in paths:
            write_json(path, {})
        blended.append(BlendedModel(name, *paths, weight))
    figures = {"valid": Figures(0.1, dict(_rank(weights)), 0.6)}
    Blend(tuple(blended), "zscore", "local", "testB", figures).write(resources)


def _rank(names: Iterable[str]) -> Iterable[tuple[str, float]]:
    """The first does best."""
    return ((name, 0.5 - place / 100) for place, name in enumerate(names))
