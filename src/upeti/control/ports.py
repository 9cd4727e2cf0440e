"""Ports held for processes that come and go.

The supervisor binds a port and never listens on it; workers bind it as well (``SO_REUSEPORT``) and listen. So
nobody else gets the port while a worker is restarted, and who asks for any free port (0) gets one that all
workers share. A bound socket that does not listen is given no connection.
"""

from __future__ import annotations

import errno
import socket
import time
from typing import Final

from upeti.core.errors import ConfigError

# Workers of a supervisor that was killed stop listening within this; then the port is free.
_TAKEN_WAIT_S: Final = 2.0


def hold(host: str, port: int, setting: str, *, ours: bool = False) -> socket.socket:
    """Bind ``host:port`` so that processes of this user may share it; keep the socket to keep the port.

    ``ours``: the supervisor holds it already, so that it is not to be found free.
    Raises ``ConfigError``, which names ``setting``, when another program listens there or the address is none
    of this machine.
    """
    deadline = time.monotonic() + _TAKEN_WAIT_S
    while True:
        try:
            if not ours:  # sharing alone would let us in beside any server that shares
                _bind(host, port, share=False).close()
            return _bind(host, port, share=True)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise ConfigError(_explain(host, port, setting, error)) from None
        time.sleep(0.1)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody uses now."""
    with _bind(host, 0, share=False) as probe:
        return int(probe.getsockname()[1])


def _bind(host: str, port: int, *, share: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    # Connections of an earlier run that linger in TIME_WAIT do not make a port taken.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _explain(host: str, port: int, setting: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{host}:{port} is taken by another program; stop it, or choose another {setting}"
    if error.errno == errno.EACCES:
        return f"{host}:{port} needs more rights; choose a {setting} of 1024 or above"
    return f"{host}:{port} cannot be had ({error.strerror}); correct {setting} and its host"
