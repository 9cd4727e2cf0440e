"""Words between the keepers of several nodes, over the database that they share (LISTEN and NOTIFY of PostgreSQL).

Rules: they only hurry things along. What is true is in the state; a word that is lost costs a wait, never money, so a
connection that breaks is made again and nothing is said twice for it. Words are never kept for later: who still waits
says his again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from upeti.control.database import connection_text
from upeti.gateway.log import Log

if TYPE_CHECKING:
    from psycopg import AsyncConnection

CHANNEL: Final = "upeti"
_AGAIN_FIRST_S: Final = 0.1
_AGAIN_MAX_S: Final = 2.0
_SAY_S: Final = 2.0  # a word that takes longer comes too late for who waits


class Recall(msgspec.Struct, frozen=True, array_like=True, tag="recall"):
    """A node needs of a budget what the workers of ``to`` do not hold."""

    sender: str
    to: str
    budget: str


class Freed(msgspec.Struct, frozen=True, array_like=True, tag="freed"):
    """Something came back to a budget after a recall; ``all``: every worker of ``sender`` has answered."""

    sender: str
    budget: str
    all: bool


PeerWord = Recall | Freed

_encoder = msgspec.json.Encoder()
_words: msgspec.json.Decoder[PeerWord] = msgspec.json.Decoder(PeerWord)


class PeerLine:
    """One node's line to all the others."""

    def __init__(self, url: str, node: str, log: Log) -> None:
        self.node = node
        self.on_recall: Callable[[str], None]
        self.on_freed: Callable[[Freed], None]
        self._conninfo = connection_text(url)
        self._log = log
        self._unsaid: list[str] = []
        self._filled = asyncio.Event()

    def recall(self, node: str, budget: str) -> None:
        """Ask the workers of ``node`` to give back."""
        self._say(Recall(self.node, node, budget))

    def freed(self, budget: str, *, every: bool) -> None:
        """Tell the others that something came back, or that there is no more to come."""
        self._say(Freed(self.node, budget, every))

    async def run(self) -> None:
        """Listen and speak until cancelled."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._keep(self._listen, "heard"))
            parts.create_task(self._keep(self._speak, "told"))

    def _say(self, word: PeerWord) -> None:
        self._unsaid.append(_encoder.encode(word).decode())
        self._filled.set()

    async def _keep(self, part: Callable[[AsyncConnection[Any]], Any], name: str) -> None:
        from psycopg import AsyncConnection, Error

        pause_s = _AGAIN_FIRST_S
        while True:
            try:
                async with await AsyncConnection.connect(self._conninfo, autocommit=True) as connection:
                    pause_s = _AGAIN_FIRST_S
                    await part(connection)
            except (Error, OSError, TimeoutError) as error:
                reason = str(error).strip().partition("\n")[0]
                self._log.warning("peers_lost", f"other nodes cannot be {name} for now: {reason}")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _AGAIN_MAX_S)

    async def _listen(self, connection: AsyncConnection[Any]) -> None:
        await connection.execute(f"LISTEN {CHANNEL}".encode())
        async for notice in connection.notifies():
            try:
                self._hear(_words.decode(notice.payload))
            except msgspec.MsgspecError:
                self._log.warning("bad_peer", "a word on the database's channel cannot be read")

    def _hear(self, word: PeerWord) -> None:
        match word:
            case Recall(sender, to, budget):
                if to == self.node and sender != self.node:
                    self.on_recall(budget)
            case Freed(sender):
                if sender != self.node:
                    self.on_freed(word)

    async def _speak(self, connection: AsyncConnection[Any]) -> None:
        self._unsaid.clear()
        while True:
            await self._filled.wait()
            self._filled.clear()
            unsaid, self._unsaid = self._unsaid, []
            async with asyncio.timeout(_SAY_S):
                words = list(dict.fromkeys(unsaid))
                await connection.execute(
                    b"SELECT pg_notify(%s, word) FROM unnest(%s::text[]) AS word", (CHANNEL, words)
                )
