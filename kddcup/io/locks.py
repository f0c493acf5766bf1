"""Locks of folders, so that two runs do not write into one."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from kddcup.io.errors import UserError
from kddcup.io.files import unwritten

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder; it is made if need be. The lock dies with this process, however that ends.

    Raises:
        UserError: another process holds it, or it cannot be written to.
    """
    path = folder / NAME
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path, "a+b", buffering=0))
            # Of the process alone: a lock of flock() would live on in forked workers.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode().strip() or "just started"
            raise UserError(
                f"{folder} is being written by another run ({holder}): "
                "wait until it ends, or name another folder"
            ) from None
        except OSError as error:
            raise UserError(unwritten(path, error)) from None
        yield
