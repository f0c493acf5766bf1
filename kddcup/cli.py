"""Flags and YAML from dataclasses.

jsonargparse would read a dataclass by itself, but not flags as people type them: ``--resume`` without a
value, ``--devices 0 1``; and what it says of a wrong one is about its own types.
"""

import argparse
import dataclasses
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, Namespace
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from kddcup.config import Fraction, HardwareSettings, Recipe, Seed
from kddcup.io.errors import UserError

Settings = TypeVar("Settings")

MAX_SETTINGS = 20_000
"""The bytes that a file of settings may have; one of all flags has 2,000."""
MAX_INTEGER = 2**63 - 1
"""The largest whole number that a setting may be."""

_NUMBERS = {
    int: "a whole number",
    NonNegativeInt: "a whole number from 0",
    PositiveInt: "a whole number from 1",
    Seed: f"a whole number from 0, below {2**32:,}",
    float: "a number",
    NonNegativeFloat: "a number from 0",
    PositiveFloat: "a number above 0",
    ClosedUnitInterval: "a number from 0 to 1",
    Fraction: "a number from 0, below 1",
}
_EXPECTED = {**_NUMBERS, str: "a text", bool: "true or false"}


class Parser(ArgumentParser):
    """Ends in one line where a flag is wrong, as the rest of a script does where a file is."""

    # What argparse says, and how we say it.
    _messages = (
        (r"argument (\S+): expected (at least )?one argument", r"\1 needs a value"),
        (r"argument (\S+): ignored explicit argument '(.*)'", r"\1 takes no value, and has \2"),
        (r"unrecognized arguments: (.*)", r"\1: there is no such flag"),
        (r"ambiguous option: (\S+) could match (.*)", r"\1 is short for several flags: \2"),
        (r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)", r"\1 \2 is not one of \3"),
        (r"the following arguments are required: (.*)", r"missing: \1"),
    )

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what :func:`kddcup.io.errors.run_script` shows."""
        for theirs, ours in self._messages:
            message = re.sub(theirs, ours, message)
        raise UserError(f"{message}; see --help") from ex


class _ConfigAction(ActionConfigFile):
    """Reads ``--config FILE`` as YAML of settings by name, and nothing that it may refer to."""

    kinds: Mapping[str, Any]

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str,
        option_string: str | None = None,
    ) -> None:
        for name, value in read_settings_file(values).items():
            if name not in self.kinds:
                raise UserError(f"{values}: there is no setting {str(name)[:40]}; see --help")
            setattr(namespace, name, _Reader(f"{values}: {name}", self.kinds[name])(value))


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
        UserError: a flag or a setting does not exist, is of another kind, or has no default and is not given.
    """
    parser = Parser(description=description, formatter_class=_HelpFormatter)
    kinds = {field.name: field.type for field in dataclasses.fields(kind)}
    config = parser.add_argument(
        "--config", action=_ConfigAction, help="a YAML file of any of these settings"
    )
    config.kinds = kinds
    for base, names in group_fields(kind).items():
        title, helps = read_docstring(base)
        group = parser.add_argument_group(title)
        for name in names:
            group.add_argument(f"--{name}", help=helps.get(name), **_describe_flag(name, kinds[name]))
        if base is HardwareSettings:
            # Of PyTorch 2's and PyTorch 1's launcher; the environment says the same, and torchrun only there.
            group.add_argument("--local-rank", "--local_rank", help="set by torch.distributed.launch")
    parser.set_defaults(find_defaults(kind, recipes["full"] if recipes else None))
    if recipes:
        parser.set_defaults(find_defaults(kind, recipes[read_size(parser.parse_args(args))]))
    values = parser.parse_args(args)
    for name in kinds:
        if name not in find_defaults(kind) and getattr(values, name) is None:
            parser.error(f"--{name} is needed")
    return kind(**{name: _drop_class(getattr(values, name)) for name in kinds})


def read_docstring(kind: type) -> tuple[str, dict[str, str]]:
    """Read a dataclass' title, and what its fields are by their names; ``python -OO`` has its name alone."""
    # Under -OO the docstring is one that the dataclass makes itself, of its signature.
    docs = parse_docstring((kind.__doc__ if sys.flags.optimize < 2 else None) or kind.__name__)
    helps = {param.arg_name: param.description for param in docs.params}
    return docs.short_description.rstrip("."), helps


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


def read_settings_file(path: str) -> dict[Any, Any]:
    """Read a YAML file of settings by name.

    Raises:
        UserError: it is absent, or something else.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"--config {path} cannot be read ({error.strerror}); see --help") from None
    try:
        values = _parse_yaml(content)
    except ValueError as error:
        raise UserError(f"--config {path} is not YAML of settings ({error}); see --help") from None
    if not isinstance(values, dict | NoneType):
        raise UserError(f"--config {path} has no settings by name, like 'seed: 1'; see --help")
    return values or {}


def _parse_yaml(content: bytes) -> Any:
    """Parse YAML of a list in a mapping at most.

    Raises:
        ValueError: it is something else.
    """
    if len(content) > MAX_SETTINGS:
        raise ValueError(f"it has more than {MAX_SETTINGS:,} bytes")
    depth = 0
    try:
        text = content.decode()
        # The library's time grows with the square of the depth, and a value of ten lines that refer to each
        # other can be larger than any memory.
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > 2 or isinstance(event, yaml.AliasEvent):
                raise ValueError(f"line {event.start_mark.line + 1} has a reference, or a list in a list")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"line {error.problem_mark.line + 1}: {error.problem}") from None
    except yaml.YAMLError:
        raise ValueError("it has control characters") from None
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"line {error.problem_mark.line + 1}: {error.problem}") from None
    except ValueError:  # of numbers of thousands of digits, and of dates
        raise ValueError("a number or a date in it is not one") from None


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads the values of a setting, of a flag's text or of what YAML makes of it.

    Args:
        label: names the setting in an error.
        kind: of the values, a field's type.
    """

    label: str
    kind: Any

    def __str__(self) -> str:
        """What is expected, as an error and ``--help`` say it."""
        return " or ".join(_name_kind(kind) for kind in _list_kinds(self.kind) if kind is not NoneType)

    def __call__(self, value: Any) -> Any:
        """Read a value.

        Raises:
            UserError: it is of another kind.
        """
        for kind in _list_kinds(self.kind):
            if get_origin(kind) is list and isinstance(value, list):
                return list(map(_Reader(self.label, get_args(kind)[0]), value))
            if get_origin(kind) is Literal and value in get_args(kind):
                return value
            if kind in (bool, str, NoneType) and isinstance(value, kind):
                return value
            if kind in _NUMBERS and (number := _read_number(kind, value)) is not None:
                return number
        text = str(value)
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise UserError(f"{self.label} {shown} is not {self}; see --help")


def _list_kinds(kind: Any) -> tuple:
    """The types that a value may be of."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _name_kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    return "a list" if get_origin(kind) is list else _EXPECTED[kind]


def _read_number(kind: type, value: Any) -> float | int | None:
    plain = float if issubclass(kind, float) else int
    if isinstance(value, bool) or not isinstance(value, str | int | plain):
        return None
    try:
        number = plain(kind(value))
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) <= MAX_INTEGER else None


def _describe_flag(name: str, kind: Any) -> dict[str, Any]:
    """How a flag of a type is parsed."""
    if kind is bool:
        return {"action": "store_true"}
    if get_origin(kind) is list:
        return {"type": _Reader(f"--{name}", get_args(kind)[0]), "nargs": "+", "action": _ListAction}
    first = _list_kinds(kind)[0]
    choices = {"metavar": f"{{{','.join(get_args(first))}}}"} if get_origin(first) is Literal else {}
    return {"type": _Reader(f"--{name}", kind), **choices}


def _drop_class(value: Any) -> Any:
    """A list of flags as a plain one, which a checkpoint can hold."""
    return list(value) if isinstance(value, list) else value
