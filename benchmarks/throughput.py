"""Samples per second of model1 at full size: ``torchrun --nproc_per_node=N -m benchmarks.throughput``."""

import json
import tempfile
import time

from benchmarks import inputs
from benchmarks.jobs import build_model, build_trainer
from kddcup import stages
from kddcup.cli import find_defaults
from kddcup.config import ModelConfig, TrainSettings
from kddcup.train.launch import launch

STAGE = "model1"
ROWS = 32
STEPS = 5


def main() -> None:
    """Print seconds per step and the rows of a step, over all processes."""
    defaults = find_defaults(TrainSettings, stages.find(STAGE).recipes["full"])
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainSettings(**{**defaults, "checkpoints_dir": folder})
        with launch(settings) as process:
            trainer = build_trainer(process, STAGE, build_model(STAGE, ModelConfig(), plain=False))
            batch = inputs.draw_batch(ModelConfig(), ROWS, negatives=True, seed=process.rank)
            trainer.step([batch])
            seconds = []
            for _ in range(STEPS):
                start = time.perf_counter()
                trainer.step([batch])
                seconds.append(time.perf_counter() - start)
            process.say(json.dumps({"seconds": min(seconds), "rows": ROWS * process.ranks}))


if __name__ == "__main__":
    main()
