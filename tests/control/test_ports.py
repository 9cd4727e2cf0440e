"""A port is held while processes that share it come and go."""

from __future__ import annotations

import socket
import threading

import pytest

from upeti.control import ports
from upeti.core.errors import ConfigError


def listener(port: int) -> socket.socket:
    """As a worker does."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    made.listen()
    return made


def test_workers_share_a_port_that_the_system_chose() -> None:
    with ports.hold("127.0.0.1", 0, "port") as held:
        port = held.getsockname()[1]
        for _ in range(2):  # a worker that is replaced
            with listener(port) as worker, socket.create_connection(("127.0.0.1", port)) as client:
                accepted, _ = worker.accept()
                accepted.sendall(b"x")
                assert client.recv(1) == b"x"
                accepted.close()


def test_connections_go_to_who_listens_only() -> None:
    with ports.hold("127.0.0.1", 0, "port") as held, listener(held.getsockname()[1]) as worker:
        for _ in range(20):
            with socket.create_connection(held.getsockname()[:2], timeout=2):
                worker.accept()[0].close()


def test_nobody_else_gets_it() -> None:
    with ports.hold("127.0.0.1", 0, "port") as held, socket.socket() as other, pytest.raises(OSError):
        other.bind(held.getsockname()[:2])


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_in_use_is_refused(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when its owner would share: it is another server's."""
    monkeypatch.setattr(ports, "_TAKEN_WAIT_S", 0.1)
    taken = listener(0) if shared else socket.create_server(("127.0.0.1", 0))
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} is taken by another program; stop it, or .* X"):
            ports.hold("127.0.0.1", port, "X")


def test_a_port_that_is_freed_in_time_is_taken() -> None:
    """Workers of a server that was killed are still closing."""
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    threading.Timer(0.3, taken.close).start()
    ports.hold("127.0.0.1", port, "X").close()


def test_an_address_of_another_machine() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:8080 cannot be had \(.*\); correct X and its host"):
        ports.hold("192.0.2.1", 8080, "X")


def test_free_ports_are_free() -> None:
    port = ports.free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert ports.free_port() != port
