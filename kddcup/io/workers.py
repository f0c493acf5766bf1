"""Processes that work for another, and do not outlive it."""

import multiprocessing
import multiprocessing.connection
import os
import threading


def end_with_parent() -> None:
    """Have this process of multiprocessing end as soon as its parent does, however that ends.

    It would wait for the dead parent to take its results, and hold what the parent had open.
    """
    threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
