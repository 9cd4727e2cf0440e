"""A configuration with every kind of trouble behind it: two providers as two channels, routes by behaviour, keys.

A route's candidates have model names that tell the fake provider how to behave (``upeti.sim.behaviours``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from upeti.sim.world import World

# The bench the auditor counts by: what a million units cost, by channel.
PER_MILLION: Mapping[str, Mapping[str, str]] = {
    "alpha": {"input": "1.10", "input_cached": "0.275", "output": "2.30"},
    "beta": {"input": "1.50", "output": "3.70"},
}


@dataclass(frozen=True)
class Route:
    """A route with the behaviour of each channel, in the order in which they are tried; "" leaves it out."""

    name: str
    alpha: str = "sim"
    beta: str = "sim"
    weighted: bool = False  # both are tried first, half the time each
    settings: str = ""
    gone: bool = False  # before both, a channel that nobody listens to
    hole: bool = False  # only a channel whose connections are never accepted


ROUTES: tuple[Route, ...] = (
    Route("plain", weighted=True),
    Route("drip", "sim-drip3", "sim-each", weighted=True),
    Route("slow", "sim-slow150", "sim-slow60", weighted=True),
    Route("cached", "sim-cached-reason", "sim-cached"),
    Route("failover", "sim-err500"),
    Route("busy", "sim-err429", "sim"),
    Route("refused", "sim-err400", ""),
    Route("unsure", "sim-err408", "sim"),
    Route("down", "sim-err503", "sim-err429", settings="attempts_max = 3"),
    Route("lost", "sim-reset", "sim"),
    Route("cut", "sim-cut", "sim-cut3"),
    Route("nousage", "sim-nousage", ""),
    Route("silent", "sim-never", "sim", settings="attempt_timeout_ms = 400"),
    Route("stall", "sim-stall3", "", settings="stream_idle_ms = 400"),
    Route("gone", gone=True),
)


@dataclass(frozen=True)
class Key:
    """A client key of the configuration; its secret is made from its id."""

    id: str
    limit: str = ""  # USD
    tenant: str = "acme"
    project: str = ""

    @property
    def secret(self) -> str:
        return f"upeti-{self.id}-of-the-fault-tests"

    @property
    def budget(self) -> str:
        return f"key:{self.id}"

    @property
    def limit_pico(self) -> int:
        return int(Decimal(self.limit) * 10**12)


@dataclass(frozen=True)
class Budget:
    """A budget that has no end."""

    name: str
    limit: str  # USD
    selectors: str = ""  # TOML, such as tenant = "acme"; empty: of all calls

    @property
    def limit_pico(self) -> int:
        return int(Decimal(self.limit) * 10**12)


@dataclass
class Scene:
    """What ``upeti.toml`` says; change a field and ``write`` it again."""

    keys: tuple[Key, ...] = (Key("free"),)
    routes: tuple[Route, ...] = ROUTES
    workers: int = 2
    durability: str = "process"
    per_million: dict[str, Mapping[str, str]] = field(default_factory=lambda: dict(PER_MILLION))
    hole_port: int = 0
    drain_timeout_ms: int = 20_000
    segment_bytes: int = 67_108_864
    budgets: tuple[Budget, ...] = ()

    def text(self, world: World) -> str:
        head = f"""\
data_dir = "data"
[gateway]
port = {world.gateway_port}
workers = {self.workers}
drain_timeout_ms = {self.drain_timeout_ms}
[control]
port = 0
[state]
url = "{world.state_url}"
[node]
name = "{world.folder.name if world.state_url else ""}"
[journal]
durability = "{self.durability}"
segment_bytes = {self.segment_bytes}
[money]
price_files = ["alpha.toml", "beta.toml"]
"""
        # The breaker stays closed: every kind of failure is to be met again and again.
        channels = [
            f'[[channel]]\nname = "{name}"\nkind = "openai_compatible"\nprices = "{part}"\n'
            f'base_url = "http://127.0.0.1:{port}/v1"\nbreaker_failures = 1000000\n'
            for name, part, port in (
                ("alpha", "alpha", world.ports.get("alpha", 1)),
                ("beta", "beta", world.ports.get("beta", 1)),
                ("gone", "alpha", 1),
                ("hole", "alpha", self.hole_port or 1),
            )
        ]
        keys = [
            f'[[key]]\nid = "{key.id}"\ntenant = "{key.tenant}"\nproject = "{key.project}"\nlimit = "{key.limit}"\n'
            f'sha256 = "{hashlib.sha256(key.secret.encode()).hexdigest()}"\n'
            for key in self.keys
        ]
        budgets = [f'[[budget]]\nname = "{one.name}"\nlimit = "{one.limit}"\n{one.selectors}\n' for one in self.budgets]
        return head + "".join([*channels, *map(_route, self.routes), *keys, *budgets])

    def write(self, world: World) -> None:
        """Leave the configuration and its price files in the folder of ``world``."""
        for part, cells in self.per_million.items():
            shown = ", ".join(f'{meter} = "{price}"' for meter, price in cells.items())
            (world.folder / f"{part}.toml").write_text(
                f'part = "{part}"\n[[price]]\nmodels = ["*"]\nfrom = 2026-01-01\ncurrency = "USD"\n'
                f'per_million = {{ {shown} }}\nsource = "made up for the tests"\nsource_date = 2026-11-23\n'
            )
        world.config.write_text(self.text(world))

    def prices(self) -> dict[str, dict[str, int]]:
        """Return what the auditor counts by: channel/model → meter → pico a unit."""
        return {
            f"{channel}/{model}": {meter: int(Decimal(price) * 10**6) for meter, price in cells.items()}
            for channel, cells in self.per_million.items()
            for model in self._models(channel)
        }

    def limits_pico(self) -> dict[str, int]:
        of_keys = {key.budget: key.limit_pico for key in self.keys if key.limit}
        return of_keys | {budget.name: budget.limit_pico for budget in self.budgets}

    def _models(self, channel: str) -> Iterable[str]:
        return {getattr(route, channel) for route in self.routes} - {""}


def _route(route: Route) -> str:
    lines = [f'[[route]]\nname = "{route.name}"\n{route.settings}']
    order = "order = 0" if route.weighted else ""
    candidates = [("alpha", route.alpha), ("beta", route.beta)]
    if route.gone:
        candidates.insert(0, ("gone", "sim"))
    if route.hole:
        candidates = [("hole", "sim")]
    for channel, model in candidates:
        if model:
            lines.append(f'[[route.candidate]]\nchannel = "{channel}"\nmodel = "{model}"\n{order}')
    return "\n".join(lines) + "\n"
