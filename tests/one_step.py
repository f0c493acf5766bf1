"""One step of a matcher with dropout off: ``one_step.py STAGE DATA ENCODER OUT``, alone or under a launcher.

Writes the losses and gradients of each rank to ``OUT/rankN.pt``; alone, those of both halves of the batch
that two ranks would share, to ``OUT/halfN.pt``.
"""

import sys
from pathlib import Path

import torch

import model1.train
import model2.train
from kddcup.cli import parse_settings
from kddcup.config import MatcherSettings
from kddcup.data.loader import TrainLoader
from kddcup.data.sampling import NegativeSampler
from kddcup.train.matching import MatcherData
from kddcup.train.processes import launch
from kddcup.train.trainer import Trainer
from model1.model import WordImageModel
from model2.model import SentenceImageModel

STAGES = {"model1": (WordImageModel, model1.train.TOSS), "model2": (SentenceImageModel, model2.train.TOSS)}
RANKS = 2


def step(made: MatcherData, build: type, loader: TrainLoader) -> dict:
    torch.manual_seed(0)
    model = build(made.config.model)
    made.load_encoder(model.item)
    trainer = Trainer(made.process, model, made.parameter_groups(model), {}, made.settings, made.config)
    losses = trainer.step(loader.batch(loader.rows(0)[0], 0))
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    return {"losses": losses, "gradients": {name: one.grad for name, one in trained.items()}}


def main(stage: str, data: str, encoder: str, out: str) -> None:
    build, toss = STAGES[stage]
    flags = ["--data_dir", data, "--encoder", encoder, "--dropout", "0", "--batch_size", "16"]
    settings = parse_settings(MatcherSettings, None, stage, lambda _: "small", flags)
    with launch(settings) as process:
        made = MatcherData.open(settings, process)
        corpus = made.data.info.corpus
        sampler = NegativeSampler(corpus, toss, settings.seed)
        ranks = [process.rank] if process.ranks == RANKS else range(RANKS)
        for rank in ranks:
            loader = TrainLoader(corpus, made.data.store, corpus.tokens, settings, rank, RANKS, sampler)
            name = f"rank{rank}.pt" if process.ranks == RANKS else f"half{rank}.pt"
            torch.save(step(made, build, loader), Path(out) / name)


if __name__ == "__main__":
    main(*sys.argv[1:])
