"""The command ``python -m kddcup.extract``: see :mod:`kddcup.pictures.extraction`."""

from kddcup.io.errors import run_script
from kddcup.pictures.extraction import main

if __name__ == "__main__":
    run_script(main)
