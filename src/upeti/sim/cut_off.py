"""A cut-off under load: three channels, calls at a steady rate, and one channel that is cut off hard, in every way.

Rules: everything is started as a user would start it; calls are due at fixed moments, so a gateway that stalls is charged
for it. What counts as lost is a plain call without a good answer: it had two more candidates. What came is judged by the
clients' own log, the providers' logs and the journal, read by the auditor, which shares no code with the gateway.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from upeti.sim.auditor import Attempt, Finding, Received, audit, read_journal
from upeti.sim.client import Ask, Client, Got
from upeti.sim.world import World

KEY: Final = "upeti-key-of-the-cut-off"
CHANNELS: Final = ("first", "second", "third")
CUT: Final = "first"
PROBE_FEATURE: Final = "known-good-probe"
PER_MILLION: Final = {"input": "1.10", "output": "2.30"}
ATTEMPT_TIMEOUT_MS: Final = 1_000
# How the channel is cut off → what its provider does from then on.
WAYS: Final = {
    "key": "sigopenaikeyinvalid",  # 401, a documented code
    "account": "siggeminiconsumersuspended",  # 403, a documented code
    "billing": "sigopenaiquota",  # 429 that no waiting helps
    "disguised": "err400",  # a bad request in words that no row knows: the probe decides
    "forbidden": "err403",  # the same with 403
    "reset": "reset",  # connections are closed before the answer
    "silence": "never",  # nothing comes
    "refused": "",  # nobody listens: the provider is killed
}
_STREAM_SHARE: Final = 10  # every tenth call is a stream
_ROUTES: Final = {"m": "", "s": "-drip10"}  # streams take a second, so that some are under way at any moment


@dataclass
class Outcome:
    """What one cut-off did to the calls that were under way or came after it."""

    way: str
    calls: int = 0
    lost: list[str] = field(default_factory=list)  # plain calls without a good answer, with what came
    streams_broken: int = 0  # begun on the channel before the cut, and ended with an error event of ours
    streams_lost: list[str] = field(default_factory=list)  # streams that neither ended well nor said why not
    met: int = 0  # attempts on the cut channel from the cut on, probes left out
    probes_until_latched: int = 0  # of the busiest worker
    latched_ms: float | None = None  # from the cut to the last attempt of a call on the channel
    usual_ms: float = 0.0  # a plain call's median time before the cut
    first_added_ms: float = 0.0  # of the first call that met the cut and was answered by another channel
    worst_added_ms: float = 0.0
    findings: list[Finding] = field(default_factory=list)


class CutOffWorld:
    """``upeti serve`` with three channels behind one route."""

    def __init__(self, world: World, *, workers: int = 2) -> None:
        self.world = world
        self._workers = workers
        self._gots: list[Got] = []
        self._numbers = 0

    async def start(self) -> None:
        for name in CHANNELS:
            await self.world.start_provider(name)
        cells = ", ".join(f'{meter} = "{price}"' for meter, price in PER_MILLION.items())
        (self.world.folder / "sim.toml").write_text(
            'part = "sim"\n[[price]]\nmodels = ["*"]\nfrom = 2026-01-01\ncurrency = "USD"\n'
            f'per_million = {{ {cells} }}\nsource = "made up"\nsource_date = 2026-11-27\n'
        )
        self.world.config.write_text(self._config())
        await self.world.start()

    def _config(self) -> str:
        channels = "".join(
            f'[[channel]]\nname = "{name}"\nkind = "openai_compatible"\nprices = "sim"\n'
            f'base_url = "http://127.0.0.1:{self.world.ports[name]}/v1"\nbreaker_pause_ms = 500\n'
            for name in CHANNELS
        )
        routes = "".join(
            f'[[route]]\nname = "{route}"\ndeadline_ms = 10000\nattempt_timeout_ms = {ATTEMPT_TIMEOUT_MS}\n'
            + "".join(f'[[route.candidate]]\nchannel = "{name}"\nmodel = "gpt-{name}{word}"\n' for name in CHANNELS)
            for route, word in _ROUTES.items()
        )
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        return (
            f'data_dir = "data"\n[gateway]\nport = 0\nworkers = {self._workers}\n[control]\nport = 0\n'
            f'[money]\nprice_files = ["sim.toml"]\n{channels}'
            f"{routes}"
            f'[[key]]\nid = "k1"\ntenant = "acme"\nsha256 = "{digest}"\n'
        )

    async def cut(self, way: str) -> int:
        """Cut the channel off: what is under way on it ends, and from now on it is refused. Return when that was, in ns."""
        if way == "refused":
            await self.world.kill_provider(CUT)
            return time.time_ns()
        return await tell_provider(self.world.ports[CUT], "/sim/cut", WAYS[way])

    async def restore(self, way: str) -> None:
        """Serve again, and wait until all workers use the channel."""
        if way == "refused":
            await self.world.start_provider(CUT)
        else:
            await tell_provider(self.world.ports[CUT], "/sim/always", "")
        deadline = time.monotonic() + 60
        in_row = 0
        while in_row < 12:
            if time.monotonic() > deadline:
                raise self.world.error("the channel was not used again within 60 s")
            async with Client(self.world.url) as client:
                got = await client.call(self._ask(stream=False))
            self._gots.append(got)
            in_row = in_row + 1 if got.headers.get("x-upeti-served-by", "").startswith(f"{CUT}/") else 0
            await asyncio.sleep(0.02)

    async def run(self, way: str, *, rate: int, seconds: float) -> Outcome:
        """Call at ``rate`` a second for ``seconds``; after a third of it the channel is cut off."""
        loop = asyncio.get_running_loop()

        async def cut_later() -> int:
            await asyncio.sleep(seconds / 3)
            return await self.cut(way)

        cutting = loop.create_task(cut_later())
        gots = await self._paced(rate, seconds)
        self._gots += gots
        return self._judge(way, gots, await cutting)

    async def run_idle(self, *, rate: int, seconds: float) -> None:
        """Call as ``run`` does, with nothing cut off: what is made once is made, and does not count."""
        self._gots += await self._paced(rate, seconds)

    async def _paced(self, rate: int, seconds: float) -> list[Got]:
        """Make calls that are due at fixed moments, each on a connection that is free."""
        loop = asyncio.get_running_loop()
        free: list[Client] = []
        everyone: list[Client] = []
        gots: list[Got] = []

        async def one(ask: Ask, due_ns: int) -> None:
            client = free.pop() if free else Client(self.world.url)
            if client not in everyone:
                everyone.append(client)
            got = await client.call(ask)
            got.began_ns = due_ns
            gots.append(got)
            free.append(client)

        began_s, began_ns = loop.time(), time.time_ns()
        tasks = []
        for number in range(int(rate * seconds)):
            due_s = number / rate
            wait_s = began_s + due_s - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            ask = self._ask(stream=number % _STREAM_SHARE == 0)
            tasks.append(loop.create_task(one(ask, began_ns + int(due_s * 1e9))))
        await asyncio.gather(*tasks)
        for client in everyone:
            client.close()
        return gots

    def _ask(self, *, stream: bool) -> Ask:
        self._numbers += 1
        route, tokens = ("s", 100) if stream else ("m", 5)
        return Ask(route, KEY, tag=f"t{self._numbers}", stream=stream, output_tokens_max=tokens)

    # -- judging --------------------------------------------------------------------------------------------------------

    def _judge(self, way: str, gots: Sequence[Got], cut_ns: int) -> Outcome:
        made = Outcome(way, calls=len(gots))
        plain = [got for got in gots if not got.ask.stream]
        made.lost = [_shown(got) for got in plain if not got.answered]
        for got in gots:
            if got.ask.stream and not got.answered:
                if got.error_code in ("stream_cut", "stream_idle"):
                    made.streams_broken += 1
                else:
                    made.streams_lost.append(_shown(got))
        before = [_ms(got) for got in plain if got.ended_ns < cut_ns and got.answered]
        made.usual_ms = median(before) if before else 0.0
        attempts = list(read_journal(self.world.data_dir).attempts.values())
        calls: dict[str, list[Attempt]] = {}
        for attempt in attempts:
            calls.setdefault(attempt.call_id, []).append(attempt)
        met = [
            got
            for got in sorted(plain, key=lambda got: got.ended_ns)
            if got.answered and got.ended_ns >= cut_ns and len(calls.get(got.call_id, ())) > 1
        ]
        added = [_ms(got) - made.usual_ms for got in met]
        if added:
            made.first_added_ms, made.worst_added_ms = added[0], max(added)
        on_cut = [one for one in attempts if one.channel == CUT and one.opened_ns >= cut_ns]
        of_calls = [one for one in on_cut if one.feature != PROBE_FEATURE]
        made.met = len(of_calls)
        if of_calls:
            last_ns = max(one.opened_ns for one in of_calls)
            made.latched_ms = (last_ns - cut_ns) / 1e6
            probes = Counter(
                one.instance for one in on_cut if one.feature == PROBE_FEATURE and one.opened_ns <= last_ns
            )
            made.probes_until_latched = max(probes.values(), default=0)
        return made

    def audit(self) -> list[Finding]:
        """Return what is wrong in the books, when everything has stopped."""
        received = [Received(**fields) for got in self._gots if (fields := got.received()) is not None]
        prices: dict[str, dict[str, int]] = {
            f"gpt-{name}{word}": {meter: int(price.replace(".", "")) * 10**4 for meter, price in PER_MILLION.items()}
            for name in CHANNELS
            for word in _ROUTES.values()
        }
        return audit(self.world.data_dir, self.world.provider_logs(), received, prices=prices)


async def tell_provider(port: int, path: str, words: str) -> int:
    """Have a running fake provider behave in another way; return from when on it does, in ns."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = words.encode()
    writer.write(b"POST %b HTTP/1.1\r\nhost: sim\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(body), body))
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    at_ns = int(await reader.readexactly(length))
    writer.close()
    return at_ns


def _ms(got: Got) -> float:
    return (got.ended_ns - got.began_ns) / 1e6


def _shown(got: Got) -> str:
    told: dict[str, Any] = {"status": got.status, "cut": got.cut, "code": got.error_code, "call": got.call_id}
    return json.dumps(told)
