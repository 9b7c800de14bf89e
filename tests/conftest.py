"""What holds for every test: no network, no window, one thread, no system of another test, the
fast ones first."""

import os
import socket
import sys

# before anything imports torch, matplotlib or transformers
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A test that reaches out fails. (Jupyter kernels talk to this machine only.)"""
    connect = socket.socket.connect

    def local_only(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            raise ConnectionRefusedError(
                f"tests do not use the network, but something asked for {address}"
            )
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads in each of two test processes on two cores are many times slower than one, and
    stay for all later tests."""
    yield
    if torch := sys.modules.get("torch"):
        left = torch.get_num_threads()
        torch.set_num_threads(1)
        assert left == 1, f"left torch with {left} threads"


@pytest.fixture(autouse=True)
def own_systems_are_forgotten():
    """A system that a test defines or imports is unknown to the next one.

    Asked of what is loaded, so that tests which need no torch do not load it.
    """

    def registered():
        base = sys.modules.get("taemi_lib.models.base")
        return {} if base is None else base.REGISTERED

    before = dict(registered())
    yield
    for name, system in list(registered().items()):
        if name not in before and not system.__module__.startswith("taemi_lib."):
            del registered()[name]
    for module in [name for name in sys.modules if name.startswith("taemi_user_")]:
        del sys.modules[module]


# On several workers these come first, so that none is left with one of them at the end; by the CPU
# seconds that they take.
LONGEST = [
    "test_claims",  # makes the demo, on both cores
    "test_own_data",
    "test_workspace",
    "test_extract",
    "test_experiments",
    "test_robustness",
    "test_sound_encoders",
    "test_micro",
    "test_encoders",
    "test_own_system",
    "test_cli",
    "test_course",
    "test_hostile",
    "test_notebook",
    "test_workers",
]


def pytest_collection_modifyitems(items):
    """On one worker fast tests come first; on several the longest files do."""

    def order(item):
        name = item.path.stem
        longest = LONGEST.index(name) if name in LONGEST else len(LONGEST)
        slow = item.get_closest_marker("slow") is not None
        return (longest, slow) if "PYTEST_XDIST_WORKER" in os.environ else (slow,)

    items.sort(key=order)
