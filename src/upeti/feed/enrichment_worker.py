"""The enrichment worker: asks the gateway about new and changed items, and keeps what it says with what it cost.

Rules: it is a client of the gateway like any other, so budgets, routes and rights hold for it, and who answers (a paid
model, a student of one's own) is the route's choice alone. What is known by prompt, route and text is not asked again. An
answer is recorded before the next call of its place begins, so a worker that is killed has paid for at most the calls
that were under way without having them. No money, no gateway: it waits and goes on; feeds never wait for it. Items held
out by an experiment are not bought. One worker at a time works on a tenant.
"""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from upeti.core.errors import ConfigError, UpetiError
from upeti.feed.enrichment import (
    PROMPT,
    UNKNOWN_COST,
    Enrichment,
    Labels,
    Prompt,
    Provenance,
    Source,
    failed,
    labels_of,
    request_of,
    safety_of,
    split_cost,
    sum_of_costs,
    version_of,
)
from upeti.feed.enrichment_store import Call, EnrichmentStore, Tried
from upeti.feed.experiment import is_held_out
from upeti.feed.experiments import Experiments
from upeti.feed.gateway_client import Action, GatewayClient, Reply, action_of
from upeti.feed.items import Item
from upeti.feed.store import FeedStore

FEATURE: Final = "feed-enrichment"  # the tag of its calls: what the bill and the worth report find them by
_PAGE: Final = 1_000
_PAUSE_FIRST_S: Final = 1.0
_PAUSE_MAX_S: Final = 300.0


class Settings(msgspec.Struct, frozen=True):
    """How the worker asks."""

    route: str = "feed-enrichment"  # the model name that it sends
    student_channels: tuple[str, ...] = ()  # channels that are models of one's own
    items_per_call: int = 8  # the instructions are paid for once a call
    call_bytes_max: int = 16_384  # of texts
    text_bytes_max: int = 6_000  # of one text; what a label needs is at its beginning
    calls_at_once: int = 4
    tries_max: int = 3
    prompt: Prompt = PROMPT


class WorkerError(UpetiError):
    """The worker cannot go on until a person has changed something. The message names it."""


class Passed(NamedTuple):
    """What one pass over the items came to."""

    labelled: int = 0
    copied: int = 0  # the same text was known
    given_up: int = 0  # no model could label them; they are unsafe
    tried: int = 0  # to be tried again
    calls: int = 0
    pause_s: float = 0.0  # over 0: it ended early, and may go on after so long
    why: str = ""

    def plus(self, other: Passed) -> Passed:
        return Passed(
            self.labelled + other.labelled,
            self.copied + other.copied,
            self.given_up + other.given_up,
            self.tried + other.tried,
            self.calls + other.calls,
            max(self.pause_s, other.pause_s),
            other.why or self.why,
        )


class Batch(NamedTuple):
    """Items that are asked about in one call; ``texts`` are what is sent of them."""

    items: tuple[Item, ...]
    texts: tuple[str, ...]


class EnrichmentWorker:
    """Works on one tenant's items."""

    def __init__(
        self,
        store: FeedStore,
        tenant: str,
        client: GatewayClient,
        experiments: Experiments,
        settings: Settings | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store = store
        self._tenant = tenant
        self._client = client
        self._experiments = experiments
        self._settings = settings or Settings()
        self._now_ns = now_ns
        self._enrichments = EnrichmentStore(store, tenant)
        self._pause_s = _PAUSE_FIRST_S
        self._draw = random.Random()  # noqa: S311 - spreads retries, guards nothing

    def run_once(self) -> Passed:
        """Go once over all items. Raises ``WorkerError``; what came before it is kept."""
        done = Passed()
        with self._alone():
            for page in self._pages():
                done = done.plus(self._work(page))
                if done.pause_s:
                    break
        return done

    def follow(self, is_over: Callable[[float], bool], told: Callable[[Passed], None], look_s: float = 2.0) -> None:
        """Go on with what is new and changed until ``is_over``, which waits up to so many seconds, says so."""
        with self._alone():
            since_ns, whole = 0, True
            while True:
                began_ns = self._now_ns()
                done = Passed()
                for page in self._pages() if whole else [self._store.changed_items(self._tenant, since_ns)]:
                    done = done.plus(self._work(page))
                    if done.pause_s:
                        break
                if any(done):
                    told(done)
                whole = done.pause_s > 0 or done.tried > 0  # what was left is found by looking at all again
                since_ns = since_ns if whole else began_ns - _OVERLAP_NS
                if is_over(done.pause_s or look_s):
                    return

    def _pages(self) -> Iterator[list[Item]]:
        after = ""
        while page := self._store.items(self._tenant, after=after, limit=_PAGE):
            after = page[-1].id
            yield page

    def _work(self, page: Sequence[Item]) -> Passed:
        running = self._experiments.running()
        asked = [
            item
            for item in page
            if not item.is_hidden and item.text.strip() and not any(is_held_out(one, item.id) for one in running)
        ]
        settings = self._settings
        wanting = self._enrichments.wanting(asked, settings.prompt.version, settings.route)
        fresh, twins, copied = self._known(wanting)
        tried = self._enrichments.tried(settings.route)
        done = self._ask(list(batches(fresh, tried, settings)), tried).plus(Passed(copied=copied))
        if twins and not done.pause_s:  # their text was asked about just now
            done = done.plus(Passed(copied=self._known(twins)[2]))
        return done

    def _known(self, items: Sequence[Item]) -> tuple[list[Item], list[Item], int]:
        """Copy what is known of the same text; return one item of each other text, the rest of those, and how many copies."""
        fresh: dict[str, Item] = {}
        twins, copies = [], []
        for item in items:
            found = self._enrichments.of_text(item.digest, self._settings.prompt.version, self._settings.route)
            if found is not None:
                copies.append(msgspec.structs.replace(found, item=item.id, cost="0", at_ns=self._now_ns()))
            elif item.digest in fresh:
                twins.append(item)
            else:
                fresh[item.digest] = item
        self._enrichments.record(None, copies)
        return list(fresh.values()), twins, len(copies)

    def _ask(self, todo: list[Batch], tried: dict[str, Tried]) -> Passed:
        """Ask about all of ``todo``, a few calls at once, until a reply says to pause."""
        done = Passed()
        waiting = iter(todo)
        under_way: dict[Future[Reply], Batch] = {}
        with ThreadPoolExecutor(self._settings.calls_at_once, "enrich") as pool:
            try:
                while True:
                    while not done.pause_s and len(under_way) < self._settings.calls_at_once:
                        batch = next(waiting, None)
                        if batch is None:
                            break
                        under_way[pool.submit(self._call, batch, tried)] = batch
                    if not under_way:
                        return done
                    for ended in wait(under_way, return_when=FIRST_COMPLETED).done:
                        done = done.plus(self._take(under_way.pop(ended), ended.result(), tried))
            except WorkerError:
                for ended in wait(under_way).done:  # they are paid for: keep what they say
                    self._take(under_way.pop(ended), ended.result(), tried, stop=False)
                raise

    def _call(self, batch: Batch, tried: dict[str, Tried]) -> Reply:
        names = "\0".join(f"{item.id}\0{item.digest}\0{_tries(tried, item)}" for item in batch.items)
        headers = {"x-upeti-feature": FEATURE, "idempotency-key": sha256(names.encode()).hexdigest()[:40]}
        return self._client.post(
            "/chat/completions", request_of(self._settings.prompt, self._settings.route, batch.texts), headers
        )

    def _take(self, batch: Batch, reply: Reply, tried: dict[str, Tried], *, stop: bool = True) -> Passed:
        """Record what a reply says, and tell what follows."""
        action = action_of(reply.status)
        if action is Action.READ:
            self._pause_s = _PAUSE_FIRST_S
            return self._read(batch, reply, tried)
        if action is Action.REFUSED:
            return self._record(batch, reply, {}, reply.reason, tried)
        if reply.says_cost and reply.call_id:  # it failed and was billed all the same
            self._record(batch, reply, {}, reply.reason, tried, counts=False)
        if action is Action.STOP:
            if not stop:
                return Passed()
            raise WorkerError(
                f"the gateway refuses the worker's calls ({reply.reason}): look at its key and at the route "
                f"`{self._settings.route}`, then start it again; what was labelled is kept"
            )
        pause_s = max(reply.retry_after_s or 0.0, self._pause_s) * self._draw.uniform(1.0, 1.2)
        self._pause_s = min(2 * self._pause_s, _PAUSE_MAX_S)
        return Passed(pause_s=pause_s, why=reply.reason)

    def _read(self, batch: Batch, reply: Reply, tried: dict[str, Tried]) -> Passed:
        try:
            said, error = labels_of(reply.body, len(batch.items)), "the answer leaves it out"
        except ValueError as unreadable:
            said, error = {}, str(unreadable)
        return self._record(batch, reply, said, error, tried)

    def _record(
        self,
        batch: Batch,
        reply: Reply,
        said: dict[int, Labels],
        error: str,
        tried: dict[str, Tried],
        *,
        counts: bool = True,
    ) -> Passed:
        """Write the call and what came of each item; ``counts``: a try without a result is one of those it has."""
        cost = reply.cost if reply.status == 200 or reply.says_cost else "0"  # a refused call is not billed
        call_id = reply.call_id or f"unnamed-{os.urandom(8).hex()}"
        now_ns, settings = self._now_ns(), self._settings
        versions: list[Enrichment] = []
        open_: list[Tried] = []
        given_up = 0
        parts = split_cost(cost, [len(text.encode()) for text in batch.texts])
        for number, (item, part) in enumerate(zip(batch.items, parts, strict=True), 1):
            was = tried.get(item.id)
            spent = _with(was, part, reply.currency)
            source, model = self._source(reply)
            if number in said:
                provenance = Provenance(call_id, *reply.served_by, settings.prompt.version)
                labels = said[number]
                versions.append(
                    Enrichment(
                        item.id,
                        version_of(item.digest, settings.prompt.version, settings.route, model),
                        labels.tags,
                        labels.quality,
                        safety_of(labels.safety),
                        None,
                        provenance,
                        spent,
                        reply.currency,
                        now_ns,
                        source,
                        settings.route,
                        item.digest,
                    )
                )
            elif (tries := _tries(tried, item) + counts) >= settings.tries_max:
                given_up += 1
                versions.append(
                    failed(item.id, item.digest, settings.prompt, settings.route, source, spent, reply.currency, now_ns)
                )
            else:
                open_.append(Tried(item.id, settings.route, item.digest, tries, spent, reply.currency, error))
        outcome = "read" if said else "unreadable" if reply.status == 200 else "failed"
        call = Call(call_id, now_ns, settings.route, outcome, len(batch.items), cost, reply.currency)
        self._enrichments.record(call, versions, open_)
        for one in open_:
            tried[one.item] = one
        return Passed(len(versions) - given_up, 0, given_up, len(open_), 1)

    def _source(self, reply: Reply) -> tuple[Source, str]:
        channel, model = reply.served_by
        return (Source.STUDENT if channel in self._settings.student_channels else Source.PAID), f"{channel}/{model}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        path = self._store.tenant_dir(self._tenant) / "enrichment.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"another worker enriches the items of {self._tenant}; two would buy them twice"
                ) from None
            yield
        finally:
            os.close(descriptor)


_OVERLAP_NS: Final = 10 * 10**9  # items of a transaction that was open when they were last looked for


def _tries(tried: dict[str, Tried], item: Item) -> int:
    was = tried.get(item.id)
    return was.tries if was is not None and was.digest == item.digest else 0


def _with(was: Tried | None, cost: str, currency: str) -> str:
    """Add what earlier tries cost; amounts of two currencies are not added, so then nobody knows."""
    if was is None or was.cost == "0":
        return cost
    if was.currency != currency and cost != "0":
        return UNKNOWN_COST
    return sum_of_costs([was.cost, cost])


def batches(items: Iterable[Item], tried: dict[str, Tried], settings: Settings) -> Iterator[Batch]:
    """Yield what is asked in one call: small texts together, one that has been tried before alone."""
    together: list[tuple[Item, str]] = []
    size = 0
    for item in items:
        text = cut(item.text, settings.text_bytes_max)
        length = len(text.encode())
        if _tries(tried, item):
            yield Batch((item,), (text,))
            continue
        if together and (len(together) >= settings.items_per_call or size + length > settings.call_bytes_max):
            yield _batch(together)
            together, size = [], 0
        together.append((item, text))
        size += length
    if together:
        yield _batch(together)


def _batch(together: Sequence[tuple[Item, str]]) -> Batch:
    return Batch(tuple(item for item, _ in together), tuple(text for _, text in together))


def cut(text: str, bytes_max: int) -> str:
    """Return the beginning of a text, whole characters only."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= bytes_max else data[:bytes_max].decode("utf-8", "ignore")
