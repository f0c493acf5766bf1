"""Flags and YAML from dataclasses.

jsonargparse would read a dataclass by itself, but not flags as people type them: ``--resume`` without a
value, ``--devices 0 1``.
"""

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar, get_args

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, get_loader, set_loader

from kddcup.config import HardwareSettings, Recipe
from kddcup.io.errors import UserError

Settings = TypeVar("Settings")

MAX_SETTINGS = 20_000
"""Letters of a file of settings; one of all flags has 2,000."""


class Parser(ArgumentParser):
    """Ends in one line where a flag is wrong, as the rest of a script does where a file is."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what :func:`kddcup.io.errors.run_script` shows."""
        raise UserError(f"{message}; see --help") from ex


class _FlagValues(list):
    """Values that flags gave."""


class _ListAction(argparse.Action):
    """Makes ``--models A --models B`` the same as ``--models A B``; what a YAML file lists is replaced."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest, None)
        if not isinstance(before, _FlagValues):
            before = ()
        setattr(namespace, self.dest, _FlagValues([*before, *values]))


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of the description, in which the examples are."""


def parse_settings(
    kind: type[Settings],
    description: str | None,
    recipes: Mapping[str, Recipe] | None = None,
    read_size: Callable[[Namespace], str] | None = None,
    args: list[str] | None = None,
) -> Settings:
    """Parse flags and ``--config FILE.yaml``, of which the later wins, over the dataclass' defaults.

    Args:
        kind: a dataclass; its docstring and those of its bases name a group of flags and describe its fields.
        description: shown by ``--help``.
        recipes: defaults by size of the fields that a recipe shares with ``kind``; ``--help`` shows those of
            the full size.
        read_size: finds the size from the settings so far; needed with ``recipes``.
        args: instead of the command line's.

    Raises:
        UserError: a flag or a setting does not exist, or is of another kind.
    """
    set_loader("settings", _read_yaml, (yaml.YAMLError,))
    parser = Parser(description=description, formatter_class=_HelpFormatter, parser_mode="settings")
    parser.add_argument("--config", action="config", help="a YAML file of any of these settings")
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    for base, names in group_fields(kind).items():
        docs = parse_docstring(base.__doc__ or "")
        helps = {param.arg_name: param.description for param in docs.params}
        group = parser.add_argument_group((docs.short_description or base.__name__).rstrip("."))
        for name in names:
            group.add_argument(f"--{name}", help=helps.get(name), **_describe_flag(types[name]))
        if base is HardwareSettings:
            # Of PyTorch 2's and PyTorch 1's launcher; the environment says the same, and torchrun only there.
            group.add_argument(
                "--local-rank", "--local_rank", type=int, help="set by torch.distributed.launch"
            )
    parser.set_defaults(find_defaults(kind, recipes["full"] if recipes else None))
    if recipes:
        parser.set_defaults(find_defaults(kind, recipes[read_size(parser.parse_args(args))]))
    values = parser.parse_args(args)
    return kind(**{name: _make_plain(getattr(values, name)) for name in types})


def group_fields(kind: type) -> dict[type, list[str]]:
    """The names of a dataclass' fields by the class that defines them, bases first."""
    groups = {}
    known: set[str] = set()
    for base in reversed(kind.__mro__):
        names = [name for name in vars(base).get("__annotations__", {}) if name not in known]
        if names:
            groups[base] = names
            known.update(names)
    return groups


def find_defaults(kind: type, recipe: Recipe | None = None) -> dict[str, Any]:
    """The defaults of a dataclass' fields: its own, over which go those of the recipe."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            found[field.name] = field.default
    names = {field.name for field in dataclasses.fields(kind)}
    given = dataclasses.asdict(recipe) if recipe else {}
    return found | {name: value for name, value in given.items() if name in names}


def _read_yaml(text: str) -> Any:
    # The YAML library calls itself for what is nested, until it runs out of stack.
    if len(text) > MAX_SETTINGS:
        raise yaml.YAMLError(f"it has more than {MAX_SETTINGS:,} letters, as no settings have")
    try:
        return get_loader("yaml")(text)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def _describe_flag(kind: Any) -> dict[str, Any]:
    """How a flag of a type is parsed."""
    if kind is bool:
        return {"action": "store_true"}
    if kind in (list[int], list[str]):
        return {"type": get_args(kind)[0], "nargs": "+", "action": _ListAction}
    choices = [name for option in get_args(kind) for name in get_args(option)]
    if choices:  # of a Literal that may be None
        return {"type": kind, "metavar": f"{{{','.join(choices)}}}"}
    return {"type": kind}


def _make_plain(value: Any) -> Any:
    """A number of jsonargparse's restricted types, or a list of flags, as a plain one for a checkpoint."""
    if isinstance(value, list):
        return list(value)
    for number in (float, int):
        if isinstance(value, number) and not isinstance(value, bool):
            return number(value)
    return value
