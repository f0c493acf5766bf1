"""A finished run of random models, and indexes, for tests of search: exactness counts, not quality."""

import contextlib
import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from kddcup import stages
from kddcup.io.atomic import atomic_folder
from kddcup.io.files import write_json
from kddcup.io.ragged import Ragged
from kddcup.rank.blend import Blend, BlendedModel, Figures
from kddcup.search.__main__ import main
from kddcup.search.index import IDS, Index, Manifest, Part, hash_id
from kddcup.search.models import StageWordModel
from kddcup.search.segment import Product, SegmentWriter
from kddcup.search.settings import IndexSettings
from kddcup.search.words import write_words
from kddcup.search.writing import IndexWriter
from kddcup.table.extractor import Extractor
from kddcup.text.vocabulary import LEXICON, SPECIALS, Vocabulary
from kddcup.train.checkpoint import SAFETENSORS, Checkpoint, RunConfig, write_checkpoint
from kddcup.train.folder import checkpoint_path
from tests import small

WEIGHTS = {"model1": 0.6, "model2": 0.4}


def write_run(
    root: Path, trained: Path, weights: dict[str, float] = WEIGHTS, extractor: Extractor | None = None
) -> None:
    """Write checkpoints of models and their blend as a run of main.sh on ``trained``'s tables leaves them.

    Args:
        root: the folder that is the repository's to them.
        trained: of stages 1 and 2.
        weights: of the blended models, by name.
        extractor: that made the features which the models take; by default those of ``trained``.
    """
    torch.manual_seed(0)
    encoder = Checkpoint.read(trained / "encoder.pth", "")
    words = Checkpoint.read(trained / "multilabel" / "model-epoch0.pth", "").parts["model"]["embed.weight"]
    config = replace(encoder.config, training={**encoder.config.training, "use_epoch": 0})
    if extractor:
        config.model, config.extractor = replace(config.model, region_dim=extractor.dim), extractor
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


def run_search(root: Path, *args: object) -> str:
    """Run ``python -m kddcup.search ARGS`` in a folder, in this process; gives what it printed."""
    printed = io.StringIO()
    argv = ["search", *map(str, args)]
    with contextlib.chdir(root), contextlib.redirect_stdout(printed), mock.patch("sys.argv", argv):
        main()
    return printed.getvalue()


def build_model(name: str, seed: int = 0) -> StageWordModel:
    """A small model of random parameters that knows the words w0 … w15."""
    torch.manual_seed(seed)
    model = stages.find(name).build(small.CONFIG).eval()
    for part in model.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.GRU):
            for parameter in part.parameters():
                torch.nn.init.normal_(parameter)  # weights that differ from word to word
    tokens = [SPECIALS[0], "w0", *SPECIALS[2:], SPECIALS[1], *(f"w{word}" for word in range(1, 16))]
    return StageWordModel(name, model, Vocabulary(LEXICON, tokens), torch.device("cpu"))


def make_index(folder: Path, model: StageWordModel, parts: list[np.ndarray], numbers: np.ndarray) -> Index:
    """Write an index of made-up heads and open it.

    Args:
        folder: of the index.
        model: that ranks.
        parts: [n, 1+H, E] heads of each segment.
        numbers: of all products.
    """
    with IndexWriter(folder) as writer:
        models = writer.name("models")
        with atomic_folder(folder / models) as part:
            stage = stages.find(model.name)
            config = RunConfig("small", small.CONFIG, model.vocabulary.to_dict())
            write_checkpoint(part / f"{model.name}{SAFETENSORS}", stage.name_parts(model.model), config)
            settings = (model.name,), {model.name: 1.0}, "none", model.name, model.name
            IndexSettings(*settings, small.CONFIG.region_dim, None, {}).write(part)
            write_words(part, {"w1": 2, "w0": 1})
        segments = []
        for heads in parts:
            segments.append(writer.name("segment"))
            own, numbers = numbers[: len(heads)], numbers[len(heads) :]
            with atomic_folder(folder / segments[-1]) as part:
                writing = SegmentWriter(part, folder)
                encoded = {
                    IDS: np.array([hash_id(str(number)) for number in own], np.int64),
                    model.similar: heads[:, 0].astype(np.float16),
                    model.heads: heads[:, 1:].astype(np.float16),
                }
                if model.weighing:
                    with torch.no_grad():
                        image = model.model.weigh_images(torch.from_numpy(heads).float())
                    encoded[model.weighing] = image.half().numpy()
                products = [Product(number, str(number), "", "", 1, 1, ()) for number in own.tolist()]
                regions = Ragged(np.ones((len(own), 5), np.float32), np.arange(len(own) + 1))
                writing.add(products, regions, [""] * len(own), encoded)
                writing.finish()
        writer.replace(Manifest(models, tuple(map(Part, segments))))
    return Index.open(folder)
