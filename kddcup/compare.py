"""The command ``python -m kddcup.compare``: see :mod:`kddcup.rank.comparison`."""

from kddcup.io.errors import run_script
from kddcup.rank.comparison import main

if __name__ == "__main__":
    run_script(main)
