"""Processes that work for another, and do not outlive it."""

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import platform
import threading

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""The numbers of mallopt's parameters, of glibc's malloc.h."""


def end_with_parent() -> None:
    """Have this process of multiprocessing end as soon as its parent does, however that ends.

    It would wait for the dead parent to take its results, and hold what the parent had open.
    """
    threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, up to a gigabyte, for what it allocates next.

    By default glibc gives the maps of a network back to the system, layer after layer, and gets them again
    zeroed, page by page: a quarter of the time of a small network on a processor.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, 1 << 25)  # the most that it takes
        library.mallopt(_TRIM_THRESHOLD, 1 << 30)
