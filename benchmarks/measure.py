"""Work in processes of its own: its time, and the peak of the memory that is its own."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from kddcup.train.precision import tf32

CPU = torch.device("cpu")
POLL_SECONDS = 0.005
CHUNK = 1 << 24
SQUARE, PRODUCTS = 2048, 20


@dataclass(frozen=True)
class Job:
    """Something to measure: ``work`` is timed, ``result`` then gives what it came to."""

    work: Callable[[], object]
    result: Callable[[], Any]


@dataclass(frozen=True)
class Run:
    """A run of a job: ``seconds``, and ``peak`` bytes of the process and its children, mapped files aside."""

    seconds: float
    peak: int


class Side:
    """A job in a process of its own, which waits between its runs.

    Args:
        prepare: makes the job, in that process; a module's function, or a partial of it.
    """

    def __init__(self, prepare: Callable[[], Job]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, prepare))
        self._process.start()
        theirs.close()

    def run(self) -> Run:
        """Do the work once."""
        return self._ask("run")

    def result(self) -> Any:
        """Give what the work came to."""
        return self._ask("result")

    def _ask(self, request: str) -> Any:
        self._pipe.send(request)
        return self._pipe.recv()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, prepare: Callable[[], Job]) -> None:
    # A spawned process would spawn its own workers too, which a user's process does not.
    multiprocessing.set_start_method(None, force=True)
    job = prepare()
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        pipe.send(_time(job.work) if request == "run" else job.result())


def _time(work: Callable[[], object]) -> Run:
    os.sync()  # so that no run waits for what another has written
    peak, done = _read_own_memory(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(POLL_SECONDS):
            peak = max(peak, _read_own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return Run(seconds, peak)


def _read_own_memory() -> int:
    """Read the bytes of anonymous memory of this process and its children; mapped files do not count."""
    total = 0
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # the child has just ended
            continue
        total += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    return total * 1024


def measure_matrix_rate(device: torch.device = CPU, precision: str = "float32", side: int = SQUARE) -> float:
    """Measure a device's operations per second in products of ``side`` × ``side``."""
    square = torch.rand(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else None)
    with tf32(precision == "tf32"):
        square @ square
        wait_for(device)
        start = time.perf_counter()
        for _ in range(PRODUCTS):
            square @ square
        wait_for(device)
        return PRODUCTS * 2 * side**3 / (time.perf_counter() - start)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_copy(source: Path, written: int) -> float:
    """Time the sequential read of a file, and the write of so many bytes beside it, flushed: seconds."""
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


def launch_throughput(processes: int, *flags: str) -> list[dict[str, Any]]:
    """Run ``benchmarks.throughput`` in so many processes; gives what it prints.

    Raises:
        subprocess.CalledProcessError: it failed; its errors are printed.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [*command, "-m", "benchmarks.throughput", *flags], stdout=subprocess.PIPE, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def describe_machine() -> str:
    """Describe processor, cores and memory."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = models[0].split(":")[1].strip() if models else "unknown processor"
    return f"{name}, {os.cpu_count()} cores, {memory / 2**30:.0f} GiB"
