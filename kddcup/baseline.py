"""The command ``python -m kddcup.baseline``: see :mod:`kddcup.rank.baseline`."""

from kddcup.io.errors import run_script
from kddcup.rank.baseline import main

if __name__ == "__main__":
    run_script(main)
