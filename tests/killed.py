"""A script of a stage that is sent a signal: ``python killed.py SIGNAL WHAT COUNT RANK train.py FLAGS``.

The signal is sent when WHAT, a step (``step``) or a file's taking its place (``replace``), begins for the
COUNT-th time on the rank; not after a restart. ``step-of-launcher`` sends it to the launcher.
"""

import os
import runpy
import signal
import sys

from kddcup.train.trainer import Trainer

PLACES = {"step": (Trainer, "step"), "step-of-launcher": (Trainer, "step"), "replace": (os, "replace")}


def main() -> None:
    name, what, count, rank, script, *sys.argv[1:] = sys.argv[1:]
    sys.argv[0] = script
    if os.environ.get("RANK", "0") == rank and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        owner, attribute = PLACES[what]
        original, left = getattr(owner, attribute), [int(count)]

        def counted(*args: object, **options: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getppid() if what == "step-of-launcher" else os.getpid(), getattr(signal, name))
            return original(*args, **options)

        setattr(owner, attribute, counted)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
