"""Set up a training run: lock its folder, join its processes, note SIGTERM."""

import contextlib
import datetime
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from kddcup.config import TrainSettings
from kddcup.data.corpus import find_size
from kddcup.io.atomic import remove_leftovers
from kddcup.io.folders import lock_folder
from kddcup.train.processes import Process, Termination, pick_device, set_threads
from kddcup.train.rendezvous import join


@contextlib.contextmanager
def launch(settings: TrainSettings) -> Iterator[Process]:
    """Join the other processes that ``torch.distributed.launch`` or ``torchrun`` started, if any.

    Seeds PyTorch alike on all ranks, so that modules start out equal; see
    :meth:`kddcup.train.trainer.Trainer.__init__`. The main process holds the lock of the checkpoints' folder.
    SIGTERM is noted in the process' ``termination``.

    Raises:
        UserError: another run writes into the folder of the checkpoints; the other processes are lost.
    """
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = pick_device(settings.devices, int(os.environ.get("LOCAL_RANK", 0)))
    torch.manual_seed(settings.seed)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        set_threads(find_size(settings.data_dir), int(os.environ.get("LOCAL_WORLD_SIZE", ranks)))
    process = Process(rank, ranks, device, Termination(launched=ranks > 1))
    with contextlib.ExitStack() as stack:
        if process.is_main:
            stack.enter_context(lock_folder(Path(settings.checkpoints_dir)))
            remove_leftovers(Path(settings.checkpoints_dir))
        timeout = datetime.timedelta(seconds=settings.timeout)
        run = stack.enter_context(join(process, timeout, "continue with '--resume'"))
        # Not before, since a process that waits for the others to join can simply be ended.
        before = signal.signal(signal.SIGTERM, process.termination.request)
        stack.callback(signal.signal, signal.SIGTERM, before)
        # torchrun counts restarts on each host by itself.
        restarted = process.any(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0)
        yield replace(process, run=run, restarted=restarted)
