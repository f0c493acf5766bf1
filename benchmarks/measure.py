"""Work in processes of its own: its time, and the peak of the memory that is its own."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

POLL_SECONDS = 0.005
CHUNK = 1 << 24
SQUARE, PRODUCTS = 2048, 20


@dataclass(frozen=True)
class Job:
    """Something to measure: ``work`` is timed, ``result`` gives afterwards what it came to."""

    work: Callable[[], object]
    result: Callable[[], Any]


@dataclass(frozen=True)
class Measured:
    """One run: ``seconds``, and ``peak`` bytes of the process and its children, mapped files aside."""

    seconds: float
    peak: int


class Side:
    """A job in a process of its own, started anew, which waits between its runs.

    Args:
        build: makes the job, in that process; a function of a module.
        args: of ``build``.
    """

    def __init__(self, build: Callable[..., Job], *args: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build, args))
        self._process.start()
        theirs.close()

    def run(self) -> Measured:
        """Do the work once."""
        return self._ask("run")

    def result(self) -> Any:
        """What the work came to."""
        return self._ask("result")

    def _ask(self, wish: str) -> Any:
        self._pipe.send(wish)
        return self._pipe.recv()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, build: Callable[..., Job], args: tuple) -> None:
    # A spawned process would spawn its own workers too, which a user's process does not.
    multiprocessing.set_start_method(None, force=True)
    job = build(*args)
    while True:
        try:
            wish = pipe.recv()
        except EOFError:
            return
        pipe.send(_timed(job.work) if wish == "run" else job.result())


def _timed(work: Callable[[], object]) -> Measured:
    os.sync()  # so that nobody waits for what another has written
    peak, done = _own_memory(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(POLL_SECONDS):
            peak = max(peak, _own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return Measured(seconds, peak)


def _own_memory() -> int:
    """Bytes of anonymous memory of this process and its children; pages of mapped files are not counted."""
    total = 0
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    return total * 1024


def matrix_product_rate() -> float:
    """The machine's float32 operations per second in products of 2048 × 2048."""
    square = torch.rand(SQUARE, SQUARE)
    square @ square
    start = time.perf_counter()
    for _ in range(PRODUCTS):
        square @ square
    return PRODUCTS * 2 * SQUARE**3 / (time.perf_counter() - start)


def copy_seconds(source: Path, written: int) -> float:
    """Seconds to read a file in order and to write so many bytes beside it, and to flush them."""
    copy = source.with_suffix(".copy")
    block = bytes(CHUNK)
    start = time.perf_counter()
    with open(source, "rb") as file:
        while file.read(CHUNK):
            pass
    with open(copy, "wb") as file:
        for begin in range(0, written, CHUNK):
            file.write(block[: written - begin])
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    copy.unlink()
    return seconds


def machine() -> str:
    """Processor, cores and memory, in words."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = models[0].split(":")[1].strip() if models else "unknown processor"
    return f"{name}, {os.cpu_count()} cores, {memory / 2**30:.0f} GiB"
