"""Threads that share the rows of an array."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Threads:
    """Threads that share blocks of rows, for when PyTorch is set to one thread.

    PyTorch's own threads wait for each other after every step of a block; these after the last block.

    Args:
        count: by default one for each core that this process may use.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self.count)

    def run(self, prepare: Callable[[], Callable[[int, int], None]], rows: int, block: int) -> None:
        """Work on blocks of at most ``block`` of so many rows.

        Args:
            prepare: gives a thread what it calls with the start and the stop of each of its blocks.
            rows: how many.
            block: at a time.
        """
        starts = iter(
            range(0, rows, block)
        )  # a step of it is one of the interpreter's, which no thread divides

        def drain() -> None:
            work = prepare()
            for start in starts:
                work(start, min(start + block, rows))

        if rows <= block:
            drain()
            return
        for done in [self._pool.submit(drain) for _ in range(self.count)]:
            done.result()
