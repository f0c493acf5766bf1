"""Two ranks that are not alike: ``torchrun … -m tests.two_ranks WHAT OUT``, and what they do then."""

import sys
from dataclasses import replace

from kddcup.io.errors import run_script
from kddcup.train.checkpoint import RunConfig
from kddcup.train.launch import launch
from tests import small


def main() -> None:
    what, out = sys.argv[1:]
    settings = small.settings("--checkpoints_dir", out)
    with launch(settings) as process:
        if what == "restart":
            print(f"run {process.run}, restarted {process.restarted}", flush=True)
            process.any(True)  # torchrun ends the others as soon as one has left
            sys.exit(not process.restarted)
        if what == "leave":
            process.any(True)
            sys.exit()
        if what == "settings":
            settings = replace(settings, seed=process.rank)
        config = RunConfig(data=f"of rank {process.rank}" if what == "data" else None)
        small.trainer(small.MULTILABEL.build(small.CONFIG), settings, process, config)


if __name__ == "__main__":
    run_script(main)
