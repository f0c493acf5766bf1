"""Users' mistakes, which end in one line and not in a traceback."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
    """Something a user can fix; the message names the file, what is wrong and what to do."""


class Terminated(Exception):
    """SIGTERM came; what was done is saved, and the message says how to go on."""


TERMINATED = 75
"""The exit code then, which by convention asks to try again later (EX_TEMPFAIL of sysexits.h)."""

REPORTS = "KDDCUP_REPORTS"
"""The variable of the environment that names a file for the last lines of the processes of a launcher."""


def make_printable(text: str) -> str:
    """Make a text one line that is fit for a terminal, whoever chose its words."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def explain_error(error: Exception) -> str:
    """Say in one printable line of moderate length what an error says, whoever chose its words."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return make_printable(str(error))[:300] or type(error).__name__


def run_script(main: Callable[[], None]) -> None:
    """Run a script's ``main``; a :class:`UserError` becomes one line on stderr and exit code 1.

    After SIGTERM the exit code is :data:`TERMINATED`. With ``KDDCUP_DEBUG=1`` in the environment the one line
    comes after the traceback.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        _end_at_once(main)
    elif code := _run(main):
        sys.exit(code)


def _run(main: Callable[[], None]) -> int:
    """Run ``main`` and say how it failed, if it did; returns the exit code."""
    try:
        main()
    except (UserError, OSError) as error:
        if os.environ.get("KDDCUP_DEBUG") == "1":
            error.__suppress_context__ = False
            traceback.print_exception(error)
        about_file = isinstance(error, OSError) and error.filename
        message = f"{error.filename}: {error.strerror}" if about_file else str(error)
        _report(f"error: {make_printable(message)}")
        return 1
    except Terminated as saved:
        _report(str(saved))
        return TERMINATED
    except KeyboardInterrupt:
        _report("interrupted")
        return 1
    return 0


def _report(line: str) -> None:
    """Print how a script ended; also into the file that main.sh names, where a launcher has more to say."""
    print(line, file=sys.stderr)
    if path := os.environ.get(REPORTS):
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def _end_at_once(main: Callable[[], None]) -> NoReturn:
    """End a process that trains with others without a shutdown of Python.

    DistributedDataParallel keeps the threads of its process group, also when that has been destroyed; one of
    them that lets go of a tensor while Python shuts down aborts the process ("terminate called without an
    active exception").
    """
    code: object = 1
    try:
        code = _run(main)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
