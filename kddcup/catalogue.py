"""The command ``python -m kddcup.catalogue``: see :mod:`kddcup.pictures.catalogue`."""

from kddcup.io.errors import run_script
from kddcup.pictures.catalogue import main

if __name__ == "__main__":
    run_script(main)
