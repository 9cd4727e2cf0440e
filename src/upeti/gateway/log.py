"""A worker's log: one JSON line per event on standard error, escaped, without secrets, prompts or answers."""

from __future__ import annotations

import sys
from collections.abc import Callable

import msgspec


class Log:
    def __init__(self, instance: str, now_ns: Callable[[], int]) -> None:
        self._instance = instance
        self._now_ns = now_ns

    def info(self, event: str, message: str, **fields: object) -> None:
        self._write("info", event, message, fields)

    def warning(self, event: str, message: str, **fields: object) -> None:
        self._write("warning", event, message, fields)

    def error(self, event: str, message: str, **fields: object) -> None:
        self._write("error", event, message, fields)

    def _write(self, level: str, event: str, message: str, fields: dict[str, object]) -> None:
        line = {
            "at_s": self._now_ns() / 1e9,
            "level": level,
            "event": event,
            "message": message,
            "instance": self._instance,
            **fields,
        }
        sys.stderr.buffer.write(msgspec.json.encode(line) + b"\n")
        sys.stderr.buffer.flush()
