"""A user's mistake ends in one line, not in a traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something a user can mend; the message names the file, what is wrong and what to do."""


def run_script(main: Callable[[], None]) -> None:
    """Run a script's ``main``; a :class:`UserError` becomes one line on stderr and exit code 1."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
