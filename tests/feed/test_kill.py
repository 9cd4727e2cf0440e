"""kill -9 of the real service while events come, and of a refit while it trains."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from support.feed_side import T, populated
from support.keeper_side import until
from upeti.feed.loading import load_state
from upeti.feed.models import ModelStore
from upeti.feed.store import FeedStore

KEY = "upeti-a-key-of-acme"
CONFIG = f"""
data_dir = "data"
[feed]
port = 0
embed = false
refit_minutes = 0
[[key]]
id = "feed"
tenant = "{T}"
sha256 = "{sha256(KEY.encode()).hexdigest()}"
"""


class Service:
    """`upeti feed serve` in a process of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "upeti.toml").write_text(CONFIG)
        self.client = httpx.Client(timeout=20, headers={"X-API-Key": KEY}, verify=False)

    def start(self) -> None:
        address = self.directory / "data" / "run" / "feed-address"
        address.unlink(missing_ok=True)
        program = [
            sys.executable,
            "-m",
            "upeti.cli.main",
            "feed",
            "serve",
            "--config",
            str(self.directory / "upeti.toml"),
        ]
        self.process = subprocess.Popen(program, stderr=(self.directory / "log").open("ab"))
        until(lambda: address.exists() or self.process.poll() is not None, seconds=60)
        self.url = f"http://{address.read_text().strip()}"
        until(self._is_ready, seconds=60)

    def _is_ready(self) -> bool:
        try:
            return self.client.get(f"{self.url}/api/health/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(30)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


def test_no_acknowledged_event_is_lost_and_none_counts_twice(service: Service) -> None:
    acknowledged: set[tuple[str, str]] = set()
    sent = 0
    draw = random.Random(5)
    try:
        for round_ in range(2):
            service.start()
            stop = threading.Event()

            def send(number: int, round_: int = round_, stop: threading.Event = stop) -> None:
                nonlocal sent
                with httpx.Client(timeout=10, headers={"X-API-Key": KEY}, verify=False) as client:
                    n = 0
                    while not stop.is_set():
                        n += 1
                        rows = [(f"u{round_}-{number}-{n}", f"i{k}") for k in range(7)]
                        body = [{"FeedbackType": "like", "UserId": user, "ItemId": name} for user, name in rows]
                        for _ in range(2):  # a client that is not answered sends again: the same rows
                            try:
                                sent += 1
                                if client.post(f"{service.url}/api/feedback", json=body).status_code == 200:
                                    acknowledged.update(rows)
                                    break
                            except httpx.HTTPError:
                                continue

            threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            until(lambda: len(acknowledged) > 200 * (round_ + 1), seconds=60)  # noqa: B023
            time.sleep(draw.random() / 10)
            service.kill()
            stop.set()
            for thread in threads:
                thread.join()
        service.start()
        store = FeedStore(service.directory / "data")
        kept = [(one.user, one.item) for one in store.feedback(T)]
        assert len(kept) == len(set(kept))
        assert acknowledged <= set(kept)
        status = service.client.get(f"{service.url}/v1/status").json()
        assert status["users"] == len({user for user, _ in kept})
        popular = service.client.get(f"{service.url}/api/user/{kept[0][0]}/feedback").json()
        assert len(popular) == 7
        assert service.stop() == 0
    finally:
        service.process.kill()
        service.process.wait()


def test_one_service_at_a_time_and_a_stop_that_loses_nothing(service: Service) -> None:
    service.start()
    second = Service(service.directory)
    program = [
        sys.executable,
        "-m",
        "upeti.cli.main",
        "feed",
        "serve",
        "--config",
        str(second.directory / "upeti.toml"),
    ]
    refused = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "another feed" in refused.stderr
    body = [{"FeedbackType": "like", "UserId": f"u{n}", "ItemId": "i"} for n in range(500)]
    assert service.client.post(f"{service.url}/api/feedback", json=body).json() == {"RowAffected": 500}
    assert service.stop() == 0
    assert len(FeedStore(service.directory / "data").feedback(T)) == 500


def test_a_refit_that_is_killed_while_it_writes_leaves_nothing_half_made(tmp_path: Path) -> None:
    """As the slow test below, at the one moment where something is half made."""
    store = populated(tmp_path, days=6, users=20)
    models = ModelStore(store.tenant_dir(T))
    state, _ = load_state(store, T)
    models.save("000000000001", state, None)
    models.make_current("000000000001")
    program = [sys.executable, "-m", "upeti.feed.refit", "--data-dir", str(tmp_path), "--tenant", T, "--no-embed"]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    directory = store.tenant_dir(T) / "models"
    while not (aside := [path for path in directory.glob(".*-*") if path.is_dir()]) and process.poll() is None:
        time.sleep(0.0005)  # what is looked for is there for some milliseconds
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it was over before it was seen"
    assert aside
    assert models.current() == "000000000001"
    for version in models.versions():
        models.load(version, state.catalogue)  # each is whole
    models.clean()
    assert not [path for path in directory.glob(".*") if path.is_dir()]


@pytest.mark.slow
def test_a_refit_that_is_killed_leaves_what_served(tmp_path: Path) -> None:
    store = populated(tmp_path)
    program = [sys.executable, "-m", "upeti.feed.refit", "--data-dir", str(tmp_path), "--tenant", T, "--no-embed"]
    began_s = time.monotonic()
    first = subprocess.run(program, capture_output=True, text=True, timeout=300, check=True)
    whole_s = time.monotonic() - began_s
    models = ModelStore(store.tenant_dir(T))
    served = models.current()
    assert served, first.stdout
    draw = random.Random(1)
    for _ in range(6):
        process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole_s * draw.uniform(0.2, 1.0))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        live = models.current()
        state, _ = load_state(store, T)
        loaded, _, ranker = models.load(live, state.catalogue)
        assert loaded.factors is not None
        assert ranker is not None
        assert ranker.version == live >= served
    subprocess.run(program, capture_output=True, timeout=300, check=True)
    assert not [path for path in (tmp_path / "feed").rglob(".*") if path.is_dir()]
