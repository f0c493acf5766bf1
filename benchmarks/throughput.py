"""Samples per second of model1 at full size: ``torchrun --nproc_per_node=N -m benchmarks.throughput``."""

import json
import tempfile
import time
from dataclasses import replace

import torch

from benchmarks import inputs
from benchmarks.works import make_model, make_trainer
from kddcup.cli import parse_settings
from kddcup.config import MatcherSettings, ModelConfig
from kddcup.train.processes import launch

ROWS = 32
STEPS = 5


def main() -> None:
    """Print seconds per step and the rows of a step, over all processes."""
    settings = parse_settings(MatcherSettings, None, "model1", lambda _: "full", [])
    with (
        tempfile.TemporaryDirectory() as folder,
        launch(replace(settings, checkpoints_dir=folder)) as process,
    ):
        trainer = make_trainer(process, make_model("model1", plain=False))
        batch = inputs.batch(ModelConfig(), ROWS, negatives=True, seed=process.rank)
        trainer.step([batch])
        seconds = []
        for _ in range(STEPS):
            start = time.perf_counter()
            trainer.step([batch])
            seconds.append(time.perf_counter() - start)
        if process.is_main:
            print(json.dumps({"seconds": min(seconds), "rows": ROWS * process.ranks}))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
