"""One step of a matcher with dropout off: ``one_step.py STAGE DATA ENCODER OUT``, alone or under a launcher.

Writes the losses and gradients of each rank to ``OUT/rankN.pt``; alone, those of both halves of the batch
that two ranks would share, to ``OUT/halfN.pt``.
"""

import importlib
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Adam

from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.config import MatcherSettings
from kddcup.data.batch import Batch
from kddcup.data.loader import TrainLoader
from kddcup.data.sampling import NegativeSampler
from kddcup.nn.words import list_trainable
from kddcup.train.checkpoint import ExportedEncoder
from kddcup.train.data import TrainingData
from kddcup.train.launch import launch
from kddcup.train.processes import Process
from kddcup.train.trainer import Trainer

RANKS = 2


def step(stage: stages.Stage, settings: MatcherSettings, data: TrainingData, rank: int, process: Process):
    """The losses and gradients of the rank's share of the first batch."""
    torch.manual_seed(0)
    encoder = ExportedEncoder.read(settings.encoder)
    config = data.configure(settings, "small", encoder.config.model.feature_length)
    model = stage.build(config.model)
    encoder.load_into(model.item)
    model.item.freeze_context()
    criterion = importlib.import_module(f"{stage.name}.criterion")
    found = {}

    def compute_losses(outputs: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        found.update(criterion.compute_losses(outputs, batch))
        return found.copy()

    negatives = importlib.import_module(f"{stage.name}.train").NEGATIVES
    sampler = NegativeSampler(data.corpus, negatives, settings.seed)
    loader = TrainLoader(data.corpus, data.store, data.corpus.tokens, settings, rank, RANKS, sampler)
    optimizer = Adam(list_trainable(model), lr=settings.rate, fused=True)
    trainer = Trainer(process, stage, model, compute_losses, optimizer, lambda _: 1.0, settings, config)
    trainer.step(loader.batch(loader.rows(0)[0], 0))
    gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    return {"losses": {name: loss.detach() for name, loss in found.items()}, "gradients": gradients}


def main(name: str, data_dir: str, encoder: str, out: str) -> None:
    flags = ["--data_dir", data_dir, "--encoder", encoder, "--dropout", "0", "--batch_size", "16"]
    stage = stages.find(name)
    settings = parse_settings(MatcherSettings, None, stage.recipes, lambda _: "small", flags)
    with launch(settings) as process:
        data = TrainingData.open(settings.data_dir)
        alone = process.ranks == 1
        for rank in range(RANKS) if alone else [process.rank]:
            path = Path(out) / f"{'half' if alone else 'rank'}{rank}.pt"
            torch.save(step(stage, settings, data, rank, process), path)


if __name__ == "__main__":
    main(*sys.argv[1:])
