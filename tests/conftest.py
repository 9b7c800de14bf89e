"""What holds for every test: no network, no window, one thread, the fast ones first."""

import os
import socket

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


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
