"""Two ranks that are not alike: ``torchrun … -m tests.two_ranks WHAT OUT``, and what they do then."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import kddcup.train.trainer
from kddcup.data.batch import Batch
from kddcup.io.errors import run_script
from kddcup.train.checkpoint import RunConfig
from kddcup.train.processes import launch
from kddcup.train.trainer import Trainer
from multilabel.model import MultiLabelClassifier
from tests import small
from tests.poisoned import settings


def main() -> None:
    what, out = sys.argv[1:]
    told = replace(settings(), checkpoints_dir=out)
    with launch(told) as process:
        if what == "restart":
            print(f"run {process.run}, restarted {process.restarted}", flush=True)
            process.any(True)  # torchrun ends the others as soon as one has left
            sys.exit(not process.restarted)
        if what == "leave":
            process.any(True)
            sys.exit()
        name = f"of rank {process.rank}"
        if what == "settings":
            told = replace(told, seed=process.rank)
        if what == "code":
            kddcup.train.trainer.code_version = lambda: name
        config = RunConfig(data=name if what == "data" else None)
        model = MultiLabelClassifier(small.CONFIG, 2, 3)
        groups = [{"params": [one for one in model.parameters() if one.requires_grad], "lr": 0.1}]
        trainer = Trainer(process, model, groups, {"model": model}, told, config)
        empty = Batch(small.queries(), small.images(), np.empty(0, np.int64))
        alone = [small.batch()] if process.rank == 0 or what != "empty" else [empty]
        trainer.steps(0, small.Batches([[small.batch()], alone, [small.batch()]]))
        trainer.finish(0, lambda: 0.5)
        torch.save(model.state_dict(), Path(out) / f"rank{process.rank}.pt")


if __name__ == "__main__":
    run_script(main)
