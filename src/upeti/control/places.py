"""Where things are in a data directory, and locks that end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Final

import msgspec

from upeti.core.errors import UpetiError

STATE_FILE: Final = "state.sqlite3"
_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9_.:/-]+")


class TakenError(UpetiError):
    """Another process of this data directory is doing the same already. The message names the cure."""


class NodeError(UpetiError):
    """This data directory cannot be that node. The message names the cure."""


class Node(msgspec.Struct, frozen=True):
    """Who this data directory is among those that share a state."""

    name: str
    token: str  # random: tells it from another data directory that was given the same name


class Places(msgspec.Struct, frozen=True):
    """The files of a data directory that the control side makes."""

    data_dir: Path

    @property
    def run(self) -> Path:
        return self.data_dir / "run"

    @property
    def snapshot(self) -> Path:
        return self.run / "snapshot.msgpack"

    @property
    def socket(self) -> Path:
        return self.run / "keeper.sock"

    @property
    def good_config(self) -> Path:
        """The last configuration that was taken, for a keeper that is started while the file is broken."""
        return self.run / "config.good.toml"

    @property
    def admin_token(self) -> Path:
        return self.run / "admin-token"

    @property
    def control_address(self) -> Path:
        """``host:port`` of the control port, for who was started without knowing it."""
        return self.run / "control-address"

    def make(self) -> None:
        """Make the directories, for the owner alone."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.run.mkdir(mode=0o700, exist_ok=True)

    def lock(self, role: str) -> int:
        """Take the lock of ``role``; it is held until the process ends, however it ends.

        Raises ``TakenError``.
        """
        path = self.run / f"{role}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 20).decode() or "?"
            os.close(descriptor)
            raise TakenError(
                f"another {role} (process {pid}) runs on {self.data_dir}; stop it, or choose another data_dir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return descriptor

    def node(self, configured: str) -> Node:
        """Return which node this data directory is: the name it was first used under, or the host's.

        Raises ``NodeError`` when ``configured`` is another name: the leases and journals are those of the first.
        """
        path = self.data_dir / "node"
        if not path.exists():
            name = configured or _NOT_IN_A_NAME.sub("-", socket.gethostname())[:128] or "node"
            write_private(path, f"{name} {secrets.token_hex(16)}\n")
        name, token = path.read_text().split()
        if configured and configured != name:
            raise NodeError(
                f"{self.data_dir} is the data directory of the node `{name}`, not of `{configured}`: "
                f'write name = "{name}" in [node], or give the new node a data_dir of its own'
            )
        return Node(name, token)

    def token(self) -> str:
        """Return the admin token, made at the first call."""
        if not self.admin_token.exists():
            write_private(self.admin_token, f"upeti-admin-{secrets.token_hex(32)}\n")
        return self.admin_token.read_text().strip()

    def audit_key(self) -> str:
        """Return the key that own models' audits are asked with, made at the first call."""
        path = self.run / "audit-key"
        if not path.exists():
            write_private(path, f"upeti-audit-{secrets.token_hex(32)}\n")
        return path.read_text().strip()


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner alone."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)
