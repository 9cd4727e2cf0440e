"""Several nodes on one PostgreSQL: no limit is overspent at any moment, nothing is lost, nobody is refused without need.

Workers, keepers, whole nodes and the database's connections are killed while calls are under way. Then, as for one node,
the auditor compares what clients and providers saw with the journals, the bills and the state; and what was estimated is
corrected from the provider's own figures, after which every sum is the provider's, to the last pico.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psycopg
import pytest

from faults import chaos
from faults.cluster import EXPECTED_IN_LOG, Blows, Cluster
from faults.corrections import correct_from_provider, pico_of_bill
from faults.judge import Verdict, quiet
from faults.scene import ROUTES, Budget, Key, Route, Scene
from faults.test_nothing_lost import PROVIDERS, SEGMENT_BYTES, seeds
from support.postgres import Postgres, running_postgres
from upeti.sim.auditor import read_journal, read_provider_logs
from upeti.sim.client import Ask, Got
from upeti.sim.limits import judge_refusals, owed_by_provider

SHARE_PERCENT = 5  # of a limit, that may be out of reach of who needs it
ASK_S = 2.0  # an ask is answered within this


class Run:
    """One cluster, its load, its trouble and its judgement."""

    def __init__(self, cluster: Cluster, scene: Scene, seed: int, *, restarts_database: bool = False) -> None:
        self.cluster = cluster
        self.scene = scene
        self.random = Random(seed)
        self.blows = Blows(cluster, self.random, restarts_database=restarts_database)
        self.gots: list[Got] = []
        self.samples = 0  # of the state
        self.calm_ns = 0  # since when nothing is hit, and all is as it should be

    async def trouble(self, seconds: float, *, clients: int, pause_s: tuple[float, float]) -> None:
        going = True
        source = chaos.asks(Random(self.random.random()), (FREE, WIDE, TIGHT), lambda: going)
        loading = asyncio.create_task(self.cluster.load(source, clients=clients))
        watching = asyncio.create_task(self._watch_limits())
        await self.blows.strike_for(seconds, pause_s=pause_s)
        going = False
        self.gots += await loading
        await self._end(watching)

    async def calm(self, asks: Iterator[Ask], *, clients: int) -> None:
        """Load without trouble: from here on nobody may be refused without need."""
        await self.cluster.whole()
        await quiet(*self.cluster.nodes, seconds=60)
        self.calm_ns = time.time_ns()
        watching = asyncio.create_task(self._watch_limits())
        self.gots += await self.cluster.load(asks, clients=clients)
        await self._end(watching)

    async def _end(self, watching: asyncio.Task[None]) -> None:
        if watching.done():
            watching.result()
        watching.cancel()

    async def _watch_limits(self) -> None:
        """At no moment is more spent and leased than the limit allows, by one look at the state of all nodes."""
        while True:
            try:
                budgets = await asyncio.to_thread(self.cluster.first.budgets)
            except psycopg.OperationalError:
                budgets = {}  # the database is away, or our own connection was cut
            for name, state in budgets.items():
                assert state.spent_pico + state.leased_pico <= state.limit_pico, (name, state)
                self.samples += 1
            await asyncio.sleep(0.1)

    async def judge(self) -> None:
        nodes = self.cluster.nodes
        await self.cluster.whole()
        await quiet(*nodes, seconds=60)
        await self.cluster.stop()
        verdict = Verdict(nodes[0], self.scene, self.gots, others=nodes[1:], expected_in_log=EXPECTED_IN_LOG)
        await verdict.reach()
        refused = list(
            judge_refusals(
                verdict.journal,
                self.scene.limits_pico(),
                share_percent=SHARE_PERCENT,
                window_s=ASK_S,
                troubled_ns=[(first, min(last, self.calm_ns)) for first, last in self.blows.troubled_ns],
            )
        )
        assert not refused, refused[:5]
        codes = Counter(refusal.code for refusal in verdict.journal.refusals)
        judged = sum(one.at_ns > self.calm_ns and one.code == "budget_exceeded" for one in verdict.journal.refusals)
        print(f"{judged} refusals for want of money in the calm")
        assert judged
        print(f"blows {dict(self.blows.counts)}; state looked at {self.samples} times; refusals {dict(codes)}")
        print(verdict.summary())
        assert self.samples
        await self._correct()

    async def _posted_pico(self) -> int:
        """Have every node post what it has; return what the ledger says that calls cost. All postings together are zero."""
        for node in self.cluster.nodes:
            await node.command("ledger", "post")
        rows = self.cluster.first.read_state("SELECT account, amount_pico FROM postings")
        assert sum(int(amount) for _, amount in rows) == 0
        return sum(int(amount) for account, amount in rows if account == "model_cost")

    async def _correct(self) -> None:
        """Correct what was estimated by the provider's figures: then all sums are the provider's."""
        nodes = self.cluster.nodes
        journal = read_journal(*(node.data_dir for node in nodes))
        owed = owed_by_provider(journal, read_provider_logs(nodes[0].provider_logs()), self.scene.prices())
        assert not {key: attempt for key, attempt in journal.attempts.items() if key not in owed}
        assert await self._posted_pico() == sum(attempt.cost_pico for attempt in journal.attempts.values())
        corrected = sum(correct_from_provider(node.data_dir, owed) for node in nodes)
        after = read_journal(*(node.data_dir for node in nodes))
        assert not after.findings
        assert {key: attempt.owed_pico for key, attempt in after.attempts.items()} == owed
        bills = [await pico_of_bill(node) for node in nodes]
        assert sum(bills) == sum(owed.values()) == await self._posted_pico()
        proof = json.loads(await nodes[0].command("ledger", "verify", "--json"))
        assert proof["sound"], proof
        print(f"{corrected} estimates corrected; the bill of all nodes is the provider's: {sum(bills)} pico")


FREE, WIDE, TIGHT = Key("free"), Key("wide", "50", project="shop"), Key("tight", "0.06", tenant="warung")
LATE = Key("late", "0.05", tenant="calm", project="shop")  # nothing is spent of it before the calm
KEYS = (FREE, WIDE, TIGHT, LATE)


def levels(organisation: str, tenant: str, project: str, feature: str) -> tuple[Budget, ...]:
    """Return budgets above the keys' own."""
    return (
        Budget("all", organisation),
        Budget("acme", tenant, 'tenant = "acme"'),
        Budget("shop", project, 'tenant = "acme"\nproject = "shop"'),
        Budget("captions", feature, 'feature = "captions"'),
    )


CALM = (
    Route("calm", "sim-slow150", "sim-slow60", weighted=True),
    Route("long", "sim-slow4000", "sim-slow6000", weighted=True),
)


def same_asks(keys: tuple[Key, ...], count: int, route: str, prefix: str) -> Iterator[Ask]:
    for number in range(count):
        feature = ("", "captions", "search")[number % 3]
        yield Ask(route, keys[number % len(keys)].secret, tag=f"{prefix}{number:05}", feature=feature, wait_s=60)


@pytest.mark.parametrize("seed", seeds("31"))
async def test_nodes_killed_again_and_again(tmp_path: Path, postgres: Postgres, seed: int) -> None:
    print(f"seed {seed}")
    async with Cluster(tmp_path, postgres) as cluster:
        budgets = levels("5", "0.15", "0.05", "0.05")
        scene = Scene(KEYS, budgets=budgets, routes=(*ROUTES, *CALM), segment_bytes=SEGMENT_BYTES)
        run = Run(cluster, scene, seed)
        await cluster.start(scene, *PROVIDERS)
        await run.trouble(6, clients=60, pause_s=(0.2, 1.0))
        await run.calm(same_asks((LATE,), 700, "calm", "calm-"), clients=200)
        await run.judge()
        assert run.blows.counts.keys() >= {"node", "database connections"}
        assert sum(got.answered for got in run.gots) > 300


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds("41"))
async def test_ten_thousand_calls_at_a_time(tmp_path: Path, seed: int) -> None:
    """Two nodes with two workers each; the database is stopped and killed, too."""
    print(f"seed {seed}")
    with running_postgres() as server:
        async with Cluster(tmp_path, server) as cluster:
            budgets = levels("5", "1.0", "0.4", "0.2")
            scene = Scene(KEYS, budgets=budgets, routes=(*ROUTES, *CALM), segment_bytes=4 * SEGMENT_BYTES)
            run = Run(cluster, scene, seed, restarts_database=True)
            await cluster.start(scene, *PROVIDERS)
            waves = same_asks((FREE, WIDE, TIGHT), 20_000, "long", "wave-")
            loading = asyncio.create_task(cluster.load(waves, clients=10_000))
            await run.trouble(45, clients=100, pause_s=(0.5, 2.0))
            run.gots += await loading
            await run.calm(same_asks((LATE, WIDE), 3000, "calm", "calm-"), clients=1000)
            await run.judge()
            began = Counter(got.status for got in run.gots if got.ask.tag.startswith("wave-"))
            print(f"of the waves {dict(began)}")
            assert run.blows.counts.keys() >= {"node", "database", "database connections"}
            assert sum(got.answered for got in run.gots) > 5000
