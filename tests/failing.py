"""Stage 1 run over and over, with the k-th change to its folder failing, and then once more without.

    python -m tests.failing DATA kill|full|cut FIRST STEP [FLAGS…]

``kill`` ends the process before its k-th change: an open for writing, a flush, a rename, a removal.
``full`` makes that change and those after it fail for want of space. ``cut`` lets no file grow beyond k
bytes, so that a write is short and the next one fails. k is FIRST, FIRST + STEP and so on, until a run comes
through. For each k it prints a line of JSON: k, how the failing run ended, what it said, which files it left
torn, how the run after it ended, what that said, and whether the files are those of a run without faults.
Runs are forked, since PyTorch and scikit-learn take seconds to import.
"""

import errno
import io
import json
import os
import resource
import shutil
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import sklearn.cluster
import sklearn.decomposition  # noqa: F401
import torch

from kddcup.io.errors import run_script
from kddcup.table import conversion, ingest
from preprocess import main

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def files(data):
    """Contents by name of what stage 1 wrote."""
    return {
        str(path.relative_to(data)): path.read_bytes()
        for folder in ("features", "info")
        for path in sorted((data / folder).rglob("*"))
        if path.is_file()
    }


def fail(mode, k, data):
    """See that the k-th change under ``data`` fails."""
    if mode == "cut":
        resource.setrlimit(resource.RLIMIT_FSIZE, (k, k))
        return
    count = 0

    def change():
        nonlocal count
        count += 1
        if count == k and mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if count >= k:  # a full disk stays full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def audited(event, args):
        if event == "open":
            path, _, flags = args
            if isinstance(path, str) and path.startswith(data) and flags & (os.O_WRONLY | os.O_RDWR):
                change()
        elif event in CHANGES and str(args[0]).startswith(data) and (mode == "kill" or event != "os.remove"):
            change()

    fsync = os.fsync

    def audited_fsync(descriptor):
        change()
        fsync(descriptor)

    sys.addaudithook(audited)
    os.fsync = audited_fsync


def run(data, flags, mode=None, k=0):
    """Run stage 1 in a forked process; gives its exit code, negative a signal's, and what it said last."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = io.StringIO()
        code = 0
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            sys.argv = ["preprocess.py", "--data_dir", str(data), *flags]
            if mode:
                fail(mode, k, str(data))
            try:
                run_script(main)
            except SystemExit as end:
                code = end.code
        # Libraries warn; what the script says comes last.
        text = said.getvalue().strip()
        os.write(writing, (text if "Traceback" in text else text.rpartition("\n")[2]).encode())
        os._exit(code)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def start(data, mode, first, step, flags):
    """Fail at each k in turn."""
    torch.set_num_threads(1)
    conversion.CHUNK_BYTES, ingest.COMMIT_BYTES = 500, 1000
    code, said = run(data, flags)
    assert code == 0, said
    expected = files(data)
    k, code = first, None
    while code != 0:
        for folder in ("features", "info"):
            shutil.rmtree(data / folder)
        code, said = run(data, flags, mode, k)
        torn = sorted(
            name for name, content in files(data).items() if name in expected and content != expected[name]
        )
        after, trouble = run(data, flags)
        same = files(data) == expected
        print(json.dumps([k, code, said, torn, after, trouble, same]), flush=True)
        k += step


if __name__ == "__main__":
    start(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
