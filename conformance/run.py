"""Run the official client's API tests directly against a server of the API description, then through Upeti.

    python conformance/run.py

Exits 0 when the gateway fails no test that passes directly. Prints a table; every test's outcome on both sides
goes to ``build/conformance.json``. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import parts

RESULT = parts.BUILD.parent / "conformance.json"

# What the gateway serves: metered APIs, and others that it relays.
SUITES = (
    "chat",
    "responses",
    "test_responses.py",
    "test_completions.py",
    "test_embeddings.py",
    "test_models.py",
    "test_files.py",
    "test_batches.py",
    "test_images.py",
    "audio",
    "test_moderations.py",
)

Outcomes = dict[str, str]  # test id → "passed" | "failed" | "skipped"


def run_tests(tests: Path, base_url: str, report: Path, processes: int) -> Outcomes:
    """Run the suites against ``base_url``. Raises ``PartMissingError`` when pytest itself did not run."""
    report.unlink(missing_ok=True)
    command = [str(parts.BUILD / "venv" / "bin" / "python"), "-m", "pytest", "-q", "-n", str(processes)]
    command += ["-p", "no:cacheprovider", "--tb=short", f"--junitxml={report}"]
    command += [f"tests/api_resources/{suite}" for suite in SUITES]
    log = report.with_suffix(".log")
    with log.open("wb") as output:
        # The tests' own variables must not come from this machine.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
        environment["TEST_API_BASE_URL"] = base_url
        subprocess.run(command, cwd=tests, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    if not report.exists():
        raise parts.PartMissingError(f"pytest did not run: see {log}")
    return read_report(report)


def read_report(report: Path) -> Outcomes:
    outcomes: Outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        test = f"{case.get('classname')}::{case.get('name')}".removeprefix("tests.api_resources.")
        outcome = "skipped" if "skipped" in kinds else "failed" if kinds & {"failure", "error"} else "passed"
        # A test that fails and whose teardown fails too is reported twice.
        outcomes[test] = max(outcome, outcomes.get(test, ""), key=("", "passed", "skipped", "failed").index)
    return outcomes


def compare(direct: Outcomes, through: Outcomes) -> tuple[list[str], list[str]]:
    """Return the tests that fail, or are missing, only through the gateway, and those that only pass there."""
    worse = [test for test, outcome in direct.items() if outcome != "failed" and through.get(test) != outcome]
    better = [test for test, outcome in direct.items() if outcome == "failed" and through.get(test) == "passed"]
    return sorted(worse), sorted(better)


def table(direct: Outcomes, through: Outcomes) -> str:
    def group(test: str) -> str:
        return test.partition("::")[0].rpartition(".")[0]

    rows: list[tuple[str, ...]] = [("tests", "count", "failed directly", "failed through Upeti", "skipped")]
    counts = Counter(group(test) for test in direct)
    failed = Counter(group(test) for test, outcome in direct.items() if outcome == "failed")
    failed_through = Counter(group(test) for test in direct if through.get(test, "failed") == "failed")
    skipped = Counter(group(test) for test, outcome in direct.items() if outcome == "skipped")
    for name in sorted(counts):
        numbers = (counts[name], failed[name], failed_through[name], skipped[name])
        rows.append((name, *(str(number) for number in numbers)))
    sums = (len(direct), failed.total(), failed_through.total(), skipped.total())
    rows.append(("all", *(str(number) for number in sums)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the official client's tests directly and through Upeti.")
    parser.add_argument("--processes", type=int, default=2, help="test processes at a time")
    processes = parser.parse_args().processes
    try:
        tests = parts.prepare()
        with parts.server() as server_url:
            direct = run_tests(tests, server_url, parts.BUILD / "direct.xml", processes)
            with parts.gateway(server_url) as gateway_url:
                through = run_tests(tests, gateway_url, parts.BUILD / "through.xml", processes)
    except parts.PartMissingError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    worse, better = compare(direct, through)
    RESULT.write_text(
        json.dumps({"direct": direct, "through": through, "worse": worse, "better": better}, indent=1, sort_keys=True)
    )
    print(table(direct, through))
    for test in worse:
        print(f"only through Upeti: {through.get(test, 'missing')}  {test}")
    for test in better:
        print(f"passed only through Upeti: {test}")
    passed = sum(outcome == "passed" for outcome in through.values())
    print(f"{passed} passed, {len(worse)} failed because of the gateway; details in {RESULT}")
    return 1 if worse or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
