"""Search in a catalogue of products: see docs/search.md.

    python -m kddcup.search index --data_dir data/shop --out shop.index
    python -m kddcup.search add --index shop.index --tables data/new/new.tsv
    python -m kddcup.search remove 1007 --index shop.index
    python -m kddcup.search query "red leather shoes" --index shop.index --top 20
    python -m kddcup.search serve --index shop.index
    python -m kddcup.search judge --index shop.index --queries queries.csv

Each has its own --help.
"""

import importlib
import sys

from kddcup.io.errors import UserError, run_script

COMMANDS = {
    "index": "kddcup.search.building:build",
    "add": "kddcup.search.building:add",
    "remove": "kddcup.search.building:remove",
    "query": "kddcup.search.querying:query",
    "serve": "kddcup.search.server:main",
    "judge": "kddcup.search.judging:judge",
}
LEADING = {"query": "--text", "remove": "--ids"}
"""The flag of what stands before all flags."""


def main() -> None:
    """Run the command that the first argument names.

    Raises:
        UserError: there is no such command.
    """
    name, *args = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__.strip())
        return
    if name not in COMMANDS:
        raise UserError(f"{name} is none of {', '.join(COMMANDS)}; see --help")
    if name in LEADING:
        count = next((place for place, arg in enumerate(args) if arg.startswith("--")), len(args))
        leading, args = args[:count], args[count:]
        if name == "query" and leading:
            args = [f"{LEADING[name]}={' '.join(leading)}", *args]
        elif leading:
            args = [*args, LEADING[name], *leading]
    module, function = COMMANDS[name].split(":")
    getattr(importlib.import_module(module), function)(args)


if __name__ == "__main__":
    run_script(main)
