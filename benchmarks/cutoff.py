"""Cutting off one of three channels under load: ``python -m benchmarks.cutoff [--rate 1000] [--seconds 6] [--way key]``.

`upeti serve` with two workers, three fake providers, calls at a steady rate, one call in ten a stream. After a third of the
time the first channel is cut off: its connections are closed, and what comes then is refused in the way that the row
names. Printed: plain calls lost (each had two more candidates), streams that had begun and ended with an error event,
attempts that still went to the channel, probes of the busiest worker until it was latched, time from the cut to the last
attempt there, and what the first and the slowest call that met it took longer than usual. The books are audited at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from upeti.sim.cut_off import WAYS, CutOffWorld, Outcome
from upeti.sim.world import World

COLUMNS = (
    "way",
    "calls",
    "lost",
    "streams broken",
    "met",
    "probes",
    "latched ms",
    "usual ms",
    "first +ms",
    "worst +ms",
)


async def measure(ways: list[str], rate: int, seconds: float) -> tuple[list[Outcome], int]:
    with tempfile.TemporaryDirectory(prefix="upeti-cut-off-") as folder:
        async with World(Path(folder)) as world:
            scene = CutOffWorld(world)
            await scene.start()
            await scene.run_idle(rate=rate, seconds=2)
            outcomes = []
            for way in ways:
                outcomes.append(await scene.run(way, rate=rate, seconds=seconds))
                await scene.restore(way)
            await world.stop()
            return outcomes, len(scene.audit())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--way", action="append", choices=list(WAYS), help="once for each; default: all")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    outcomes, findings = asyncio.run(measure(arguments.way or list(WAYS), arguments.rate, arguments.seconds))
    if arguments.json:
        print(json.dumps([asdict(one) for one in outcomes], indent=2))
    else:
        print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
        for one in outcomes:
            latched = "" if one.latched_ms is None else f"{one.latched_ms:.1f}"
            figures = (one.way, one.calls, len(one.lost), one.streams_broken, one.met, one.probes_until_latched)
            times = (f"{one.usual_ms:.1f}", f"{one.first_added_ms:.1f}", f"{one.worst_added_ms:.1f}")
            print("| " + " | ".join(map(str, (*figures, latched, *times))) + " |")
        print(f"\nfindings of the auditor: {findings}")
    return 1 if findings or any(one.lost or one.streams_lost for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
