"""The feed service of one process: all tenants in memory, every event committed before it is acknowledged.

Rules: events of all requests that wait are committed in one transaction (group commit), then applied to memory in the order
of the log, then acknowledged: so an acknowledged event is in the next feed and survives kill -9, and none counts twice,
because memory is a fold over the log. Memory has one owner, the event loop; the store is used by one thread beside it.
Impressions are in their log before a feed leaves. Refits are processes of their own; what they let in is swapped in whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from upeti.core.config import Feed as FeedSettings
from upeti.core.errors import NotFound, Overloaded, UpetiError
from upeti.feed.enrichment_store import EnrichmentStore
from upeti.feed.experiments import Experiments
from upeti.feed.impressions import ImpressionLog
from upeti.feed.items import Feedback, Item, User
from upeti.feed.loading import give_vectors, load_state, wanting_vectors
from upeti.feed.models import ModelError, ModelStore
from upeti.feed.serve import FeedAnswer, FeedRequest, TenantFeed
from upeti.feed.store import FeedStore
from upeti.journal.acts import act, record_acts
from upeti.providers.minilm import MiniLm

WAITING_MAX: Final = 100_000  # events that wait for the disk: some seconds of it; more are told to come back
_LOOK_S: Final = 1.0
_EMBED_AT_ONCE: Final = 16  # texts: a tenth of a second on one core, during which nothing else of this is embedded
_REFIT_STOP_S: Final = 5.0
_SAVE_VECTORS: Final = 500

_T = TypeVar("_T")
Say = Callable[[str], None]


class _Waiting(NamedTuple):
    """Events of one request, and who waits for them."""

    tenant: str
    events: Sequence[Feedback]
    done: asyncio.Future[int]


class Tenant:
    """What the service holds of one tenant."""

    def __init__(self, store: FeedStore, name: str, settings: FeedSettings, *, power: bool) -> None:
        state, self.vectors = load_state(store, name)
        self.name = name
        self.feed = TenantFeed(state, settings)
        directory = store.tenant_dir(name)
        self.impressions = ImpressionLog(directory, power=power)
        self.models = ModelStore(directory)
        self.experiments = Experiments(directory, store.directory.parent, name)
        self.experiments_stamp = -1
        self.enriched_ns = time.time_ns()
        self.items_ns = time.time_ns()
        self.refitted_s = time.monotonic()

    def look(self) -> bool:
        """Take what was decided or trained since; tell whether anything was."""
        changed = False
        if self.experiments.stamp != self.experiments_stamp:
            self.experiments_stamp = self.experiments.stamp
            self.feed.experiments = self.experiments.running()
            changed = True
        version = self.models.current()
        if version and version != self.version:
            state = self.feed.state
            models, prior, ranker = self.models.load(version, state.catalogue)
            state.counters.resize(len(state.catalogue))
            state.models, state.prior, self.feed.ranker = models, prior, ranker
            state.forget_counts()
            state.index_vectors()
            self.version = version
            changed = True
        return changed

    version = ""


class FeedService:
    """Serves feeds and takes events, for every tenant."""

    def __init__(
        self, data_dir: Path, settings: FeedSettings, *, power: bool = False, say: Say = print,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:  # fmt: skip
        """``power``: an acknowledged event survives the loss of power, not only the death of the process."""
        self.data_dir = data_dir
        self.settings = settings
        self.clock_ns = clock_ns
        self.store = FeedStore(data_dir, url=settings.url, durable=power)
        self._power = power
        self._say = say
        self._tenants: dict[str, Tenant] = {}
        self._disk = ThreadPoolExecutor(1, "feed-disk")
        self._embedding = ThreadPoolExecutor(1, "feed-embed")
        self._waiting: list[_Waiting] = []
        self._waiting_events = 0
        self._wake = asyncio.Event()
        self._later: set[asyncio.Task[None]] = set()
        self._later_events = 0
        self._stopping = asyncio.Event()
        self._order = asyncio.Lock()  # of what changes the log and memory together
        self._tasks: list[asyncio.Task[None]] = []
        self._model: MiniLm | None = None
        self.is_ready = False

    async def start(self) -> None:
        """Load every tenant; then events are taken."""
        for name in await self._on_disk(self.store.tenants):
            self.tenant(name)
        self.is_ready = True
        self._tasks = [asyncio.create_task(self._commit_forever()), asyncio.create_task(self._look_forever())]
        if self.settings.embed:
            self._tasks.append(asyncio.create_task(self._embed_forever()))

    async def stop(self) -> None:
        """Commit what waits, and end."""
        self.is_ready = False
        self._stopping.set()
        await asyncio.gather(*self._later, return_exceptions=True)
        while self._waiting:
            self._wake.set()
            await asyncio.sleep(0.005)
        async with self._order:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._disk.shutdown()
        self._embedding.shutdown()
        for tenant in self._tenants.values():
            tenant.vectors.save()
            tenant.impressions.close()
        self.store.close()

    def tenant(self, name: str) -> Tenant:
        """Return a tenant, loaded now if it is new."""
        found = self._tenants.get(name)
        if found is None:
            found = self._tenants[name] = Tenant(self.store, name, self.settings, power=self._power)
            self._look_at(found)
        return found

    def feed(self, tenant: str, request: FeedRequest, *, log: bool = True) -> FeedAnswer:
        """Return a feed whose impressions are logged."""
        held = self.tenant(tenant)
        began = time.perf_counter_ns()
        answer = held.feed.feed(request, self.clock_ns())
        if log:
            spent_us = (time.perf_counter_ns() - began) // 1000
            held.impressions.append([msgspec.structs.replace(row, spent_us=spent_us) for row in answer.impressions])
        return answer

    async def add_feedback(self, tenant: str, events: Sequence[Feedback]) -> int:
        """Commit and apply events that `checked_feedback` returned; return how many were new. Raises ``Overloaded``."""
        if not events:
            return 0
        if self._waiting_events + len(events) > WAITING_MAX:
            raise Overloaded(
                "too_many_events", "More events wait than the disk takes: send them again.", retry_after_s=1
            )
        self.tenant(tenant)
        one = _Waiting(tenant, events, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._waiting_events += len(events)
        self._wake.set()
        return await one.done

    async def add_feedback_later(self, tenant: str, events: Sequence[Feedback], delay_s: float) -> None:
        """As ``add_feedback``, after so many seconds. Nobody is told that it was kept: what waits lives in memory.

        A stop writes it early, kill -9 loses it. Raises ``Overloaded``.
        """
        if not delay_s:
            await self.add_feedback(tenant, events)
            return
        if self._later_events + len(events) > WAITING_MAX:
            raise Overloaded(
                "too_many_events", "More events are put off than are kept: shorten the delay.", retry_after_s=60
            )
        self._later_events += len(events)
        self._later.add(asyncio.create_task(self._add_later(tenant, events, delay_s)))

    async def _add_later(self, tenant: str, events: Sequence[Feedback], delay_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay_s)
        self._later_events -= len(events)
        now_ns = self.clock_ns()
        await self.add_feedback(tenant, [msgspec.structs.replace(one, at_ns=now_ns) for one in events])
        task = asyncio.current_task()
        assert task is not None
        self._later.discard(task)

    async def replace_feedback(self, tenant: str, events: Sequence[Feedback]) -> int:
        """As ``add_feedback``, but what is there already makes place."""
        keys = {(one.user, one.item, one.kind) for one in events}
        async with self._order:
            taken = await self._on_disk(lambda: [
                old for user, item, kind in keys for old in self.store.feedback(tenant, user=user, item=item, kind=kind)
            ])  # fmt: skip
            number = await self._on_disk(lambda: self.store.add_feedback(tenant, events, replace=True))
            await self._rebuild(tenant, {one.user for one in events}, taken)
        return number

    async def delete_feedback(self, tenant: str, user: str, item: str, kind: str = "") -> int:
        async with self._order:
            taken = await self._on_disk(lambda: self.store.feedback(tenant, user=user, item=item, kind=kind))
            number = await self._on_disk(lambda: self.store.delete_feedback(tenant, user, item, kind))
            await self._rebuild(tenant, {user}, taken)
        return number

    async def put_items(self, tenant: str, items: Sequence[Item]) -> None:
        held = self.tenant(tenant)
        async with self._order:
            await self._on_disk(lambda: self.store.put_items(tenant, items))
            held.feed.state.put_items(items)
            give_vectors(held.feed.state, held.vectors, wanting_vectors(held.feed.state))

    async def delete_item(self, tenant: str, item: str) -> bool:
        """Delete an item and the feedback on it."""
        held = self.tenant(tenant)
        async with self._order:
            taken = await self._on_disk(lambda: self.store.feedback(tenant, item=item))
            was_there = await self._on_disk(lambda: self.store.delete_item(tenant, item))
            held.feed.state.catalogue.remove(item)
            await self._rebuild(tenant, {one.user for one in taken}, taken)
        return was_there

    async def put_users(self, tenant: str, users: Sequence[User]) -> None:
        held = self.tenant(tenant)
        async with self._order:
            await self._on_disk(lambda: self.store.put_users(tenant, users))
            for user in users:
                held.feed.state.profiles.of(user.id).profiling = user.profiling

    async def delete_user(self, tenant: str, user: str) -> bool:
        """Delete a user everywhere: store, memory, impressions. The act names them by a digest alone."""
        held = self.tenant(tenant)
        name = sha256(f"{tenant}\0{user}".encode()).hexdigest()[:16]
        async with self._order:
            at_ns = time.time_ns()
            await self._on_disk(
                lambda: record_acts(self.data_dir, act(at_ns, "api", "feed.user_deleted", f"{tenant}/{name}", ""))
            )
            taken = await self._on_disk(lambda: self.store.feedback(tenant, user=user))
            was_there = await self._on_disk(lambda: self.store.delete_user(tenant, user))
            held.feed.state.take_back(user, taken, ())
            held.feed.state.profiles.drop(user)
            # Nothing may be logged meanwhile: the log has one writer, and it is this thread.
            erased = held.impressions.erase(user)
        return was_there or bool(erased)

    async def store_call(self, call: Callable[[], _T]) -> _T:
        """Read from the store beside the event loop."""
        return await self._on_disk(call)

    async def _rebuild(self, tenant: str, users: set[str], taken: Sequence[Feedback]) -> None:
        """Undo what left the log; then read what is new in it."""
        state = self.tenant(tenant).feed.state
        for user in users:
            left = await self._on_disk(lambda user=user: self.store.feedback(tenant, user=user))  # type: ignore[misc]
            known = [one for one in left if one.sequence <= state.sequence]
            state.take_back(user, [one for one in taken if one.user == user], known)
        state.apply(await self._on_disk(lambda: self.store.feedback(tenant, after=state.sequence)))
        state.forget_counts()

    async def _commit_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            async with self._order:
                batch, self._waiting = self._waiting, []
                self._waiting_events = 0
                if batch:
                    await self._commit(batch)

    async def _commit(self, batch: list[_Waiting]) -> None:
        names = {one.tenant for one in batch}
        after = {name: self.tenant(name).feed.state.sequence for name in names}

        def write() -> dict[str, list[Feedback]]:
            self.store.add_feedback_of([(one.tenant, event) for one in batch for event in one.events])
            return {name: self.store.feedback(name, after=sequence) for name, sequence in after.items()}

        try:
            written = await self._on_disk(write)
        except Exception as error:
            for one in batch:
                if not one.done.done():
                    one.done.set_exception(
                        Overloaded("not_stored", f"The events could not be stored ({error}): send them again.")
                    )
            return
        new: set[tuple[str, str, str, str]] = set()
        for name, rows in written.items():
            state = self.tenant(name).feed.state
            state.apply(rows)
            new.update((name, row.user, row.item, row.kind) for row in rows)
        for one in batch:
            found = {(one.tenant, event.user, event.item, event.kind) for event in one.events} & new
            new -= found
            if not one.done.done():
                one.done.set_result(len(found))

    async def _look_forever(self) -> None:
        """Take what other processes wrote: experiments, models, enrichments, imports; start refits."""
        running: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                await asyncio.sleep(_LOOK_S)
                for name in await self._on_disk(self.store.tenants):
                    tenant = self.tenant(name)
                    self._look_at(tenant)
                    await self._take_changes(tenant)
                    if self._is_refit_due(tenant, running.get(name)):
                        tenant.refitted_s = time.monotonic()
                        running[name] = asyncio.create_task(self._refit(name))
        finally:
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)

    def _look_at(self, tenant: Tenant) -> None:
        try:
            tenant.look()
        except UpetiError as error:  # what served goes on serving
            self._say(f"feed: tenant {tenant.name}: {error}")
            if isinstance(error, ModelError):
                tenant.version = tenant.models.current()

    async def _take_changes(self, tenant: Tenant) -> None:
        state = tenant.feed.state
        now_ns = time.time_ns()
        async with self._order:
            since_ns = tenant.items_ns - 10**9  # a writer's clock and its commit are not one moment
            items = await self._on_disk(lambda: self.store.changed_items(tenant.name, since_ns))
            changed = [one for one in items if (held := self._item(tenant, one.id)) is None or held != one]
            if changed:
                state.put_items(changed)
                give_vectors(state, tenant.vectors, wanting_vectors(state))
            rows = await self._on_disk(lambda: self.store.feedback(tenant.name, after=state.sequence))
            if rows:
                state.apply(rows)
            tenant.items_ns = now_ns
            newest = EnrichmentStore(self.store, tenant.name)
            enriched = await self._on_disk(lambda: newest.latest(tenant.enriched_ns - 10**9))
            for versions in enriched.values():
                state.catalogue.set_enrichment(versions)
            tenant.enriched_ns = now_ns

    def _item(self, tenant: Tenant, item: str) -> Item | None:
        place = tenant.feed.state.catalogue.find(item)
        return None if place is None else tenant.feed.state.catalogue.item(place)

    def _is_refit_due(self, tenant: Tenant, running: asyncio.Task[None] | None) -> bool:
        pause_s = 60 * self.settings.refit_minutes
        return bool(pause_s) and time.monotonic() - tenant.refitted_s >= pause_s and (running is None or running.done())

    async def _refit(self, name: str) -> None:
        program = [sys.executable, "-m", "upeti.feed.refit", "--data-dir", str(self.data_dir), "--tenant", name]
        environment = os.environ | {"UPETI_FEED_URL": self.settings.url}
        process = await asyncio.create_subprocess_exec(
            *program, *([] if self.settings.embed else ["--no-embed"]), env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            said, _ = await process.communicate()
            self._say(f"feed: refit of {name}: {said.decode(errors='replace').strip()}")
        finally:
            if process.returncode is None:
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), _REFIT_STOP_S)

    async def _embed_forever(self) -> None:
        """Give new texts their vectors, a few at a time."""
        while True:
            busy = False
            for tenant in list(self._tenants.values()):
                busy |= await self._embed_some(tenant)
            await asyncio.sleep(0.01 if busy else _LOOK_S)

    async def _embed_some(self, tenant: Tenant) -> bool:
        state = tenant.feed.state
        places = wanting_vectors(state)[:_EMBED_AT_ONCE]
        items = [item for place in places.tolist() if (item := state.catalogue.item(place)) is not None]
        if not items:
            if tenant.vectors.unsaved:
                tenant.vectors.save()
            return False
        rows = await asyncio.get_running_loop().run_in_executor(
            self._embedding, self._embed, [one.text for one in items]
        )
        tenant.vectors.put([item.digest for item in items], rows)
        give_vectors(state, tenant.vectors, wanting_vectors(state))
        if tenant.vectors.unsaved >= _SAVE_VECTORS:
            tenant.vectors.save()
        return True

    def _embed(self, texts: list[str]) -> Any:
        if self._model is None:
            self._model = MiniLm()
        return self._model.embed(texts)

    async def _on_disk(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, call)


def known_item(item: Item | None, name: str) -> Item:
    """Raises ``NotFound`` when there is no such item."""
    if item is None:
        raise NotFound("no_such_item", f"There is no item {name!r}.")
    return item
