"""An own model as a gateway sees one: a server whose every answer a test chooses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

ANSWER = {
    "id": "chatcmpl-own",
    "object": "chat.completion",
    "created": 1,
    "model": "own",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "card_lost"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22},
}


class ScriptedStudent:
    """Answers each call as ``answer`` says: bytes to send, or None to say nothing."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any]], bytes | None] = lambda _: answered()
        self.asked: list[dict[str, Any]] = []
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                (length,) = [
                    int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
                ]
                body = json.loads(await reader.readexactly(length))
                self.asked.append(body)
                said = self.answer(body)
                if said is not None:
                    writer.write(said)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def cut(self) -> None:
        """Close every connection."""
        for writer in self._writers:
            writer.transport.abort()


def answered() -> bytes:
    return http_answer(200, "", json.dumps(ANSWER).encode())


def deferred(reason: str = "not_sure", status: int = 422) -> bytes:
    return http_answer(
        status, f"x-upeti-deferred: {reason}\r\n", b'{"error":{"message":"own words","code":"deferred"}}'
    )


def failed(status: int = 500) -> bytes:
    return http_answer(status, "", b'{"error":{"message":"own words","code":"broken"}}')


def http_answer(status: int, lines: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{lines}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@asynccontextmanager
async def scripted_student() -> AsyncIterator[ScriptedStudent]:
    student = ScriptedStudent()
    server = await asyncio.start_server(student.serve, "127.0.0.1", 0)
    student.port = server.sockets[0].getsockname()[1]
    try:
        yield student
    finally:
        student.cut()
        server.close()
