"""A user's mistake ends in one line, not in a traceback."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
    """Something a user can mend; the message names the file, what is wrong and what to do."""


class Terminated(Exception):
    """SIGTERM came; what was done is saved, and the message says how to go on."""


TERMINATED = 75
"""The exit code then, which by convention asks to try again later (EX_TEMPFAIL of sysexits.h)."""


def make_printable(text: str) -> str:
    """Make a text one line that is fit for a terminal, whoever chose its words."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def explain_error(error: Exception) -> str:
    """Say in one printable line of moderate length what an error says, whoever chose its words."""
    if "weights_only" in str(error):  # PyTorch goes on to advise the unsafe way
        return "it is torn, or holds something other than tensors and plain values"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return make_printable(str(error))[:300] or type(error).__name__


def run_script(main: Callable[[], None]) -> None:
    """Run a script's ``main``; a :class:`UserError` becomes one line on stderr and exit code 1.

    After SIGTERM the exit code is :data:`TERMINATED`.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        _end_at_once(main)
    elif code := _outcome(main):
        sys.exit(code)


def _outcome(main: Callable[[], None]) -> int:
    """The exit code, after which there is nothing to say any more."""
    try:
        main()
    except UserError as error:
        said = f"error: {make_printable(str(error))}"
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        said = f"error: {make_printable(what)}"
    except Terminated as saved:
        print(saved, file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        said = "interrupted"
    else:
        return 0
    print(said, file=sys.stderr)
    return 1


def _end_at_once(main: Callable[[], None]) -> NoReturn:
    """End a process that trains with others without a shutdown of Python.

    DistributedDataParallel keeps the threads of its process group, also when that has been destroyed; one of
    them that lets go of a tensor while Python shuts down aborts the process ("terminate called without an
    active exception").
    """
    code: object = 1
    try:
        code = _outcome(main)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
