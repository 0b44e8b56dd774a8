"""Two nodes: a torchrun agent on each, whose processes meet on loopback, or each in a network namespace of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.kills import write_images
from tests.programs import run_program
from tests.test_double_precision import FLAGS

pytestmark = pytest.mark.slow

GLOBAL_BATCH = 24  # of 96 images: four steps per epoch
LIMIT = 200.0  # seconds
ADDRESSES = ("10.77.0.1", "10.77.0.2")


@dataclass(frozen=True)
class Place:
    """Where the processes of a node run: what precedes their command, and what they know of the network."""

    enter: tuple[str, ...]
    variables: dict[str, str]


@contextmanager
def loopback() -> Iterator[list[Place]]:
    yield [Place((), {"HOST": "127.0.0.1"}) for _ in range(2)]


@contextmanager
def namespaces() -> Iterator[list[Place]]:
    """Two machines as far as the network can tell: each has an address of its own and sees no port of the other."""
    with ExitStack() as stack:
        pids = []
        for _ in range(2):
            keeper = stack.enter_context(subprocess.Popen(["unshare", "--net", "sleep", "infinity"]))
            stack.callback(keeper.kill)
            pids.append(str(keeper.pid))
        enter = [("nsenter", "--target", pid, "--net") for pid in pids]
        time.sleep(1)  # `unshare` changes its namespace before it becomes `sleep`
        ip(enter[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", pids[1])
        for node, address in zip(enter, ADDRESSES, strict=True):
            ip(node, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip(node, "link", "set", device, "up")
        known = {"HOST": ADDRESSES[0], "GLOO_SOCKET_IFNAME": "eth0"}
        yield [Place(node, known | {"ADDRESS": own}) for node, own in zip(enter, ADDRESSES, strict=True)]


def ip(enter: tuple[str, ...], *arguments: str) -> None:
    subprocess.run([*enter, "ip", *arguments], check=True)


def have_namespaces() -> bool:
    tools = all(map(shutil.which, ("ip", "unshare", "nsenter")))
    return tools and subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0


class Node:
    """A torchrun agent and its process, in a process group of their own."""

    def __init__(self, folder: Path, name: str, place: Place, port: int, flags: list[str], nodes: int = 2) -> None:
        recipe = folder / "recipe.sh"
        recipe.write_text(f'exec {sys.executable} {ROOT}/main_contrastive.py "$@"\n')
        variables = os.environ | place.variables | {"OMP_NUM_THREADS": "1", "NODES": str(nodes), "PORT": str(port)}
        variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
        command = [*place.enter, "bash", str(ROOT / "bash_files/torchrun.sh"), str(recipe), *flags]
        self.log = folder / f"{name}.txt"
        with self.log.open("w") as log:
            self.agent = subprocess.Popen(
                command, cwd=folder, env=variables, stdout=log, stderr=log, start_new_session=True
            )

    def end(self, limit: float = LIMIT) -> int:
        try:
            return self.agent.wait(limit)
        except subprocess.TimeoutExpired:
            self.die()
            raise AssertionError(f"no end within {limit} s: {self.log.read_text()[-3000:]}") from None

    def die(self) -> None:
        os.killpg(self.agent.pid, signal.SIGKILL)
        self.agent.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def until_listening(place: Place, port: int) -> None:
    """The first node keeps the store: the second must not find the port free on a common loopback."""
    deadline = time.monotonic() + LIMIT
    while f":{port}" not in subprocess.run([*place.enter, "ss", "-lnt"], capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def flags_of(processes: int, run_id: str, epochs: int) -> list[str]:
    flags = [*FLAGS, "--epochs", str(epochs), "--batch_size", str(GLOBAL_BATCH // processes), "--run_id", run_id]
    return [*flags, "--checkpoint_every_n_steps", "1", "--knn_every", "1000", "--resume_training_from", "auto"]


def weights(folder: Path, run_id: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"trained_models/{run_id}/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    "network",
    [
        loopback,
        pytest.param(namespaces, marks=pytest.mark.skipif(not have_namespaces(), reason="no network namespaces here")),
    ],
)
def test_two_nodes_are_one_process_and_one_goes_on_when_the_other_dies(network: type, tmp_path: Path) -> None:
    write_images(tmp_path)
    with network() as (first, second):
        port = free_port()
        flags = flags_of(2, "nodes", 2)
        nodes = [Node(tmp_path, "first", first, port, flags)]
        until_listening(first, port)
        nodes.append(Node(tmp_path, "second", second, port, flags))
        assert [node.end() for node in nodes] == [0, 0], nodes[0].log.read_text()[-3000:]
        alone = run_program(tmp_path, "main_contrastive.py", *flags_of(1, "alone", 2))
        assert (alone.returncode, alone.stderr) == (0, "")
        for name, expected in weights(tmp_path, "alone").items():
            torch.testing.assert_close(weights(tmp_path, "nodes")[name], expected, rtol=1e-8, atol=1e-10, msg=name)

        port = free_port()
        flags = flags_of(2, "killed", 12)
        nodes = [Node(tmp_path, "first", first, port, flags)]
        until_listening(first, port)
        nodes.append(Node(tmp_path, "second", second, port, flags))
        checkpoint = tmp_path / "trained_models/killed/last.ckpt"
        deadline = time.monotonic() + LIMIT
        while not checkpoint.exists():
            assert time.monotonic() < deadline, nodes[0].log.read_text()[-3000:]
            time.sleep(0.2)
        nodes[1].die()
        assert nodes[0].end(30) != 0
        assert torch.load(checkpoint, weights_only=True)["global_step"] > 0
        on_one = [*flags_of(1, "killed", 12), "--num_nodes", "1", "--devices", "1"]
        resumed = run_program(tmp_path, "main_contrastive.py", *on_one)
        assert (resumed.returncode, resumed.stderr) == (0, "")
        assert "2 processes of 12 images before" in " ".join(resumed.stdout.split())
