"""How processes find each other, also after a restart."""

import contextlib
import datetime
import os
import time
import uuid
from collections.abc import Iterator

from torch import distributed

from kddcup.io.errors import UserError
from kddcup.train.processes import Process

JOIN_POLL_SECONDS = 0.05


@contextlib.contextmanager
def join(process: Process, timeout: datetime.timedelta, advice: str) -> Iterator[str]:
    """Make the group of processes, where there are several; gives the name of the run.

    Args:
        process: this process.
        timeout: how long to wait for the others.
        advice: how to go on when they are lost.

    Raises:
        UserError: the other processes are lost, or a rank has not joined in time.
    """
    own = uuid.uuid4().hex
    if "TORCHELASTIC_RUN_ID" not in os.environ and process.ranks == 1:
        yield own
        return
    try:
        store, _, _ = next(distributed.rendezvous("env://", timeout=timeout))
        # The launcher keeps its store over restarts, and has one of its own for each run. Its run id would
        # not do, which is "none" for all runs on several hosts that name no other.
        run = store.compare_set("run", "", own).decode()
        if process.ranks == 1:
            yield run
            return
        distributed.init_process_group(
            "nccl" if process.device.type == "cuda" else "gloo",
            timeout=timeout,
            store=distributed.PrefixStore(_agree_on_attempt(store, process, timeout), store),
            rank=process.rank,
            world_size=process.ranks,
        )
        yield run
        distributed.destroy_process_group()
    except RuntimeError as error:
        if not _is_loss_of_others(error):
            raise
        if "EADDRINUSE" in str(error):
            port = os.environ["MASTER_PORT"]
            raise UserError(
                f"port {port} is in use: end what uses it, or name another --master_port"
            ) from None
        reason = str(error).splitlines()[0]
        raise UserError(
            f"rank {process.rank} lost the other processes ({reason}): "
            f"see what ended them, or the network between the hosts; {advice}"
        ) from None


def _agree_on_attempt(store: distributed.Store, process: Process, timeout: datetime.timedelta) -> str:
    """Agree on a name that these processes share, and those before a restart did not have.

    torchrun keeps its store over restarts, with the addresses of processes that are gone, and counts restarts
    on each host by itself, so that neither the run nor that count tells an attempt from the one before. So
    each rank r writes ``asks/r`` = a new name n; rank 0 answers ``answer/n`` = the attempt's name a; the rank
    says ``knows/a/r``; and rank 0 goes on when all know, be they asking for the second time.

    Raises:
        UserError: a rank has not joined within the time.
    """
    own = uuid.uuid4().hex
    if not process.is_main:
        store.set(f"asks/{process.rank}", own)
        attempt = store.get(f"answer/{own}").decode()
        store.set(f"knows/{attempt}/{process.rank}", "")
        return attempt
    deadline = time.monotonic() + timeout.total_seconds()
    waiting = set(range(1, process.ranks))
    while waiting:
        for rank in sorted(waiting):
            if store.check([f"asks/{rank}"]):
                store.set(f"answer/{store.get(f'asks/{rank}').decode()}", own)
            if store.check([f"knows/{own}/{rank}"]):
                waiting.remove(rank)
        if time.monotonic() > deadline:
            raise UserError(f"rank {min(waiting)} has not joined within {timeout}: start all processes")
        time.sleep(JOIN_POLL_SECONDS)
    return own


def _is_loss_of_others(error: RuntimeError) -> bool:
    # gloo raises plain RuntimeErrors, which name the place in its source.
    return isinstance(error, distributed.DistError) or "gloo" in str(error)
