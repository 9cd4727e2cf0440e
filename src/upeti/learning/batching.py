"""Micro-batches: calls that wait for the same student are predicted together.

Rules: a call that comes while nothing is predicted waits for no other, but for those that the same turn of the loop brings;
what comes while a batch is predicted is the next batch. A student that is quick about a text is asked within the loop, for a
thread would cost more than the answer; any other in a thread, so that the loop goes on (numpy and onnxruntime let it). What
could not be answered in time is not begun: it is refused when it comes, or given up when its time is over.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Final, Protocol

import msgspec

from upeti.learning.answers import Values
from upeti.learning.ladder import Prediction

IN_LOOP_S: Final = 0.002  # a text that takes longer is predicted in a thread
_MEMORY: Final = 0.2  # how much the last batch tells of what a text takes


class Predicted(msgspec.Struct, frozen=True):
    """What a student says of one text."""

    values: Values
    confidence: float
    in_scope: bool


class BusyError(Exception):
    """More texts wait than can be predicted in time, or this one's time is over."""


class Asker(Protocol):
    """Who waits for what is predicted. Plain calls: a future for each text would cost as much as the text."""

    text: str
    until_s: float  # loop time; what is not begun then is not begun

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits."""
        ...

    def told(self, predicted: Predicted) -> None: ...

    def failed(self, error: Exception) -> None:
        """``BusyError``, or what the student raised."""


class Batcher:
    """The texts that wait for one student."""

    def __init__(
        self,
        predict: Callable[[Sequence[str]], Prediction],
        executor: Executor,
        *,
        text_s: float,
        batch_max: int = 16,
        queue_max: int = 512,
        wait_s: float = 0.0,
        at_once: int = 1,
    ) -> None:
        """``text_s`` is what one text took when the student was loaded; ``at_once`` how many batches may be predicted in
        threads together.
        """
        self._predict = predict
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._wait_s = wait_s
        self._at_once = at_once
        self._in_loop = text_s < IN_LOOP_S
        self.text_s = text_s  # what a text takes, in batches as they come
        self._queue: deque[Asker] = deque()
        self._under_way = 0  # batches in threads
        self._texts_under_way = 0
        self._due = False  # whether the loop will look at the queue by itself
        self.batches = 0
        self.texts = 0

    def submit(self, asker: Asker) -> None:
        """Have ``asker`` told, in a later turn of the loop or a later batch. Raises ``BusyError`` when that could not be in
        time.
        """
        waiting = len(self._queue) + self._texts_under_way
        if len(self._queue) >= self._queue_max or self._loop.time() + waiting * self.text_s > asker.until_s:
            raise BusyError
        self._queue.append(asker)
        if not self._due and self._under_way < self._at_once:
            self._due = True
            if self._wait_s and len(self._queue) < self._batch_max:
                self._loop.call_later(self._wait_s, self._next)
            else:
                self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._due = False
        if self._under_way >= self._at_once:
            return  # the end of a batch looks at the queue
        batch = self._take()
        if not batch:
            return
        if self._in_loop:
            began_s = time.perf_counter()
            try:
                found: Prediction | Exception = self._predict([one.text for one in batch])
            except Exception as error:
                found = error
            self._done(batch, found, time.perf_counter() - began_s)
        else:
            self._under_way += 1
            self._texts_under_way += len(batch)
            self._loop.create_task(self._in_thread(batch))
        if self._queue and self._under_way < self._at_once and not self._due:
            self._due = True
            self._loop.call_soon(self._next)

    def _take(self) -> list[Asker]:
        now_s = self._loop.time()
        batch: list[Asker] = []
        while self._queue and len(batch) < self._batch_max:
            one = self._queue.popleft()
            if one.until_s < now_s or not one.wanted:
                one.failed(BusyError())
            else:
                batch.append(one)
        return batch

    async def _in_thread(self, batch: list[Asker]) -> None:
        began_s = time.perf_counter()
        try:
            found: Prediction | Exception = await self._loop.run_in_executor(
                self._executor, self._predict, [one.text for one in batch]
            )
        except Exception as error:
            found = error
        self._under_way -= 1
        self._texts_under_way -= len(batch)
        self._done(batch, found, time.perf_counter() - began_s)
        self._next()

    def _done(self, batch: list[Asker], found: Prediction | Exception, took_s: float) -> None:
        self.batches += 1
        self.texts += len(batch)
        self.text_s += _MEMORY * (took_s / len(batch) - self.text_s)
        if isinstance(found, Exception):
            for one in batch:
                one.failed(found)
            return
        confidence, in_scope = found.confidence, found.in_scope
        for place, (one, values) in enumerate(zip(batch, found.answers, strict=True)):
            one.told(Predicted(values, float(confidence[place]), bool(in_scope[place])))
