"""How fast processes train together. Example:

torchrun --nproc_per_node=2 -m benchmarks.throughput --stages model1 --batch_size 32
"""

import json
import tempfile
import time
from dataclasses import dataclass, field
from typing import Literal

from jsonargparse.typing import PositiveInt

from benchmarks import inputs
from benchmarks.device import SCOPES
from benchmarks.jobs import build_model, build_settings, build_trainer
from benchmarks.measure import wait_for
from kddcup import stages
from kddcup.cli import parse_settings
from kddcup.train.launch import launch

BLOCKS = 3


@dataclass
class ThroughputSettings:
    """Settings of the measurement.

    Args:
        stages: whose steps are measured.
        precisions: of their layers.
        batch_size: rows per process; by default those of the size.
        size: of the models.
        steps: of a block, of which the best of three counts.
    """

    stages: list[str] = field(default_factory=lambda: ["model1"])
    precisions: list[Literal["float32", "tf32", "bf16"]] = field(default_factory=lambda: ["float32"])
    batch_size: PositiveInt | None = None
    size: Literal["full", "small"] = "full"
    steps: PositiveInt = 2


def main() -> None:
    """Print seconds per step and the rows of a step of all processes, as a line of JSON each."""
    settings = parse_settings(ThroughputSettings, __doc__)
    scope = SCOPES[settings.size]
    with (
        tempfile.TemporaryDirectory() as folder,
        launch(build_settings(settings.stages[0], checkpoints_dir=folder)) as process,
    ):
        for stage in settings.stages:
            rows = settings.batch_size or scope.count_rows(stage)
            negatives = stages.find(stage).kind == "matcher"
            batch = inputs.draw_batch(scope.config, rows, negatives, seed=process.rank).to(process.device)
            for precision in settings.precisions:
                model = build_model(stage, scope.config, plain=False, device=process.device).train()
                trainer = build_trainer(process, stage, model, precision)
                trainer.step([batch])
                seconds = []
                for _ in range(BLOCKS):
                    process.any(False)  # all begin together
                    wait_for(process.device)
                    start = time.perf_counter()
                    for _ in range(settings.steps):
                        trainer.step([batch])
                    wait_for(process.device)
                    seconds.append((time.perf_counter() - start) / settings.steps)
                found = {"stage": stage, "precision": precision, "rows": rows * process.ranks}
                process.say(json.dumps({**found, "seconds": min(seconds)}))


if __name__ == "__main__":
    main()
