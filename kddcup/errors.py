"""A user's mistake ends in one line, not in a traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something a user can mend; the message names the file, what is wrong and what to do."""


class Terminated(Exception):
    """SIGTERM came; what was done is saved, and the message says how to go on."""


TERMINATED = 75
"""The exit code then, which by convention asks to try again later (EX_TEMPFAIL of sysexits.h)."""


def run_script(main: Callable[[], None]) -> None:
    """Run a script's ``main``; a :class:`UserError` becomes one line on stderr and exit code 1.

    After SIGTERM the exit code is :data:`TERMINATED`.
    """
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
    except Terminated as saved:
        print(saved, file=sys.stderr)
        sys.exit(TERMINATED)
    except KeyboardInterrupt:
        sys.exit("interrupted")
