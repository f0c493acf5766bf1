"""The command ``python -m kddcup.predictions``: see :mod:`kddcup.rank.trec`."""

from kddcup.io.errors import run_script
from kddcup.rank.trec import main

if __name__ == "__main__":
    run_script(main)
