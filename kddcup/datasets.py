"""The command ``python -m kddcup.datasets esci|muge``: see :mod:`kddcup.pictures.esci` and ``.muge``."""

import sys

from kddcup.io.errors import UserError, run_script
from kddcup.pictures import esci, muge

SETS = {"esci": esci.main, "muge": muge.main}


def main() -> None:
    """Convert the public set that the first argument names."""
    name, *args = sys.argv[1:] or [""]
    if name not in SETS:
        raise UserError(
            f"name a set, {' or '.join(SETS)}: 'python -m kddcup.datasets esci --help' says what it needs"
        )
    SETS[name](args)


if __name__ == "__main__":
    run_script(main)
