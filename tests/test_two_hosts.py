"""Stage 3 on two hosts: two network namespaces of this machine, joined by a cable."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from kddcup.train.folder import STEP, find_newest
from tests.conftest import ROOT, run_script

pytestmark = pytest.mark.slow
NAMES = (f"kddcup{os.getpid()}a", f"kddcup{os.getpid()}b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
LINKS = ("cablea", "cableb")
PORT = 29417
TIMEOUT, PATIENCE = 10, 150


@dataclass
class Host:
    """A network namespace with its end of the cable."""

    name: str
    address: str
    link: str

    def command(self, *args: object) -> list[str]:
        return ["ip", "netns", "exec", self.name, *map(str, args)]

    def train(self, node: int, trained: Path, out: Path, *flags: object) -> subprocess.Popen:
        """Start this host's launcher, which starts one process."""
        launcher = (
            *("-m", "torch.distributed.run", "--nnodes=2", f"--node_rank={node}", "--nproc_per_node=1"),
            *(f"--master_addr={ADDRESSES[0]}", f"--master_port={PORT}"),
        )
        return subprocess.Popen(
            self.command(sys.executable, *launcher, *command(trained, out), *flags),
            cwd=ROOT / "model1",
            env={**os.environ, "GLOO_SOCKET_IFNAME": self.link},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def command(trained: Path, out: Path) -> list:
    return [
        *("train.py", "--data_dir", trained / "data", "--encoder", trained / "encoder.pth"),
        *("--checkpoints_dir", out, "--batch_size", 64, "--dropout", 0, "--use_epoch", 0),
    ]


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts; skips where this machine lets nobody make them."""
    pair = tuple(Host(*names) for names in zip(NAMES, ADDRESSES, LINKS, strict=True))
    steps = [
        *(["ip", "netns", "add", host.name] for host in pair),
        f"ip link add {LINKS[0]} netns {NAMES[0]} type veth peer name {LINKS[1]} netns {NAMES[1]}".split(),
        *(host.command("ip", "address", "add", f"{host.address}/24", "dev", host.link) for host in pair),
        *(host.command("ip", "link", "set", link, "up") for host in pair for link in ("lo", host.link)),
    ]
    try:
        for step in steps:
            try:
                done = subprocess.run(step, capture_output=True, text=True)
            except FileNotFoundError:
                pytest.skip("there is no 'ip' here, which makes network namespaces")
            if done.returncode:
                pytest.skip(f"network namespaces cannot be made here: {done.stderr.strip()}")
        yield pair
    finally:
        for host in pair:
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True)


def wait_for(process: subprocess.Popen) -> str:
    """All that a launcher printed, once it has ended by itself."""
    try:
        return process.communicate(timeout=PATIENCE)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"it did not end: {process.communicate()[0][-3000:]}")


def figures(printed: str) -> list[float]:
    """The losses and NDCG@5 of epoch 0."""
    line = re.search(r"epoch 0: (.*NDCG@5 \S+)", printed)[1]
    return [float(number) for number in re.findall(r"\d\.\d+", line)]


def test_two_hosts_find_the_losses_of_two_processes_on_one(trained, tmp_path, hosts):
    folders = [tmp_path / name for name in ("one", "a", "b")]
    pair = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    alone = run_script("model1", *pair, *command(trained, folders[0]), "--epochs", 1)
    assert alone.returncode == 0, alone.stderr
    running = [
        host.train(node, trained, folder, "--epochs", 1)
        for node, (host, folder) in enumerate(zip(hosts, folders[1:], strict=True))
    ]
    printed = [wait_for(process) for process in running]
    assert [process.returncode for process in running] == [0, 0], printed
    assert figures(printed[0]) == pytest.approx(figures(alone.stdout), abs=1e-3)
    assert not list(folders[2].glob("*.pth"))
    together, apart = (torch.load(folder / "model-epoch0.pth", weights_only=True) for folder in folders[:2])
    # The threads of a process differ, and with them the order of its sums.
    torch.testing.assert_close(together["item"], apart["item"], rtol=0, atol=1e-4)


def test_a_cut_cable_ends_both_sides_with_a_sound_checkpoint(trained, tmp_path, hosts):
    flags = ("--epochs", 500, "--save_every", 2, "--timeout", TIMEOUT)
    running = [host.train(node, trained, tmp_path / host.link, *flags) for node, host in enumerate(hosts)]
    folder = tmp_path / LINKS[0]
    deadline = time.monotonic() + PATIENCE
    while not (folder / STEP).exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    subprocess.run(hosts[0].command("ip", "link", "set", LINKS[0], "down"), check=True)
    for node, process in enumerate(running):
        printed = wait_for(process)
        assert process.returncode != 0
        assert f"error: rank {node} lost the other processes" in printed, printed[-3000:]
    saved = torch.load(find_newest(folder), weights_only=True)
    assert saved["state"]["step"] > 0 or saved["state"]["epoch"] > 0
    assert all(value.isfinite().all() for value in saved["item"].values())
