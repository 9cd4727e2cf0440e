"""`upeti channels` and `upeti incidents`, without a running Upeti and with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.upeti_process import CONFIG, upeti_process
from upeti.cli.main import main
from upeti.cli.state import open_state
from upeti.control.latches import signalled
from upeti.gateway.keeper_link import Latched
from upeti.gateway.latch import Latch, Scope, State, Subject

WHO = ("--by", "head of legal", "--why", "contract under review")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "upeti.toml"
    path.write_text(
        'data_dir = "data"\n[[channel]]\nname = "up"\nkind = "azure"\n[[channel]]\nname = "idle"\nkind = "anthropic"\n'
    )
    return path


def run(config: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--config", str(config)])
    return int(ended.value.code or 0)


def test_latching_showing_and_opening(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "channels", "list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["channel"], row["state"], row["breaker_open"]) for row in rows] == [
        ("up", "usable", None),
        ("idle", "usable", None),
    ]
    assert run(config, "channels", "latch", "nowhere", *WHO) == 2
    assert "there is no channel `nowhere`" in capsys.readouterr().err
    assert run(config, "channels", "latch", "up", *WHO) == 0
    assert "The channel up is latched (incident inc_" in capsys.readouterr().out
    assert run(config, "channels", "latch", "up", "--model", "gpt-old", *WHO) == 0
    assert run(config, "channels", "list") == 0
    shown = capsys.readouterr().out
    assert "held" in shown
    assert "gpt-old" in shown
    assert "contract under review" in shown
    assert run(config, "channels", "open", "up", *WHO) == 0
    out = capsys.readouterr().out
    assert "the channel 'up' is open." in out
    assert "the model 'gpt-old' on the channel 'up' is open." in out
    assert run(config, "channels", "open", "up", *WHO) == 2
    assert run(config, "channels", "probe", "up") == 2
    assert "Upeti does not run" in capsys.readouterr().err


def test_incidents(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "incidents", "list") == 0
    assert "There were no incidents." in capsys.readouterr().out
    latch = Latch(Subject(Scope.CHANNEL, "up"), State.LATCHED, 10**18, "inc_1", "account_cut", "it is cut")
    signalled(open_state(config), config.parent / "data", Latched(latch, "azure-x", 403, "ab", "bad\x1b[31m"), 10**18)
    assert run(config, "incidents", "list") == 0
    assert "inc_1" in capsys.readouterr().out
    assert run(config, "incidents", "list", "--channel", "idle", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run(config, "incidents", "show", "inc_1") == 0
    shown = capsys.readouterr().out
    assert "body excerpt  bad\\x1b[31m" in shown
    assert "why           it is cut" in shown
    assert run(config, "incidents", "show", "inc_1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["meaning"] == "account_cut"
    assert run(config, "incidents", "show", "inc_2") == 2


TWO = (
    CONFIG.replace("port = 0\ndrain", "port = 0\nworkers = 2\ndrain")
    .replace('candidate = [{{ channel = "sim" }}]', 'candidate = [{{ channel = "sim", model = "gpt-one" }}]')
    .replace('name = "*"', 'name = "m"')
)


def test_a_running_upeti_latches_in_all_workers_and_opens_by_itself(tmp_path: Path) -> None:
    """The provider refuses the key for a while; both workers hear of it; a probe opens it when that is over."""
    from support.keeper_side import until

    with upeti_process(tmp_path, TWO) as upeti:
        upeti.start()
        assert upeti.call()[0] == 200
        _provider(upeti.config, "sigopenaikeyinvalid")
        status, body = upeti.call()
        assert (status, body["error"]["code"]) == (503, "channel_latched")
        (row,) = json.loads(upeti.command("channels", "list", "--json").stdout)
        assert row["state"] == "latched"
        assert not row["breaker_open"]  # None until the workers have reported
        seen = _seen(tmp_path)
        until(lambda: [upeti.call()[0] for _ in range(10)] == [503] * 10, what="the latch in both workers")
        assert [line for line in _seen(tmp_path)[len(seen) :] if "gpt-one" not in line] == []
        shown = upeti.command("channels", "probe", "sim")
        assert shown.returncode == 1
        assert "cut, status 401" in shown.stdout
        _provider(upeti.config, "")
        until(lambda: upeti.call()[0] == 200, seconds=30, what="the opening")
        until(lambda: [upeti.call()[0] for _ in range(10)] == [200] * 10, what="the opening in both workers")
        (incident,) = json.loads(upeti.command("incidents", "list", "--json").stdout)
        assert (incident["signal"], incident["recovered_by"]) == ("openai-key-invalid", "rule:probe")
        assert incident["calls"] >= 1
        assert "sk-proj-" not in incident["body_excerpt"]
        # A person's latch works without the control port, within a second or so.
        assert upeti.command("channels", "latch", "sim", *WHO).returncode == 0
        until(lambda: [upeti.call()[0] for _ in range(10)] == [503] * 10, what="the person's latch")
        assert upeti.command("channels", "open", "sim", *WHO).returncode == 0
        until(lambda: [upeti.call()[0] for _ in range(10)] == [200] * 10, what="the person's opening")
        assert upeti.stop() == 0


def _provider(config: Path, words: str) -> None:
    """Have the fake provider behave like this from now on."""
    import re
    import urllib.request

    port = re.search(r"127\.0\.0\.1:(\d+)/v1", config.read_text())
    assert port is not None
    request = urllib.request.Request(f"http://127.0.0.1:{port[1]}/sim/always", data=words.encode(), method="POST")
    urllib.request.urlopen(request, timeout=5).close()


def _seen(folder: Path) -> list[str]:
    return [line for line in (folder / "provider.jsonl").read_text().splitlines() if '"seen"' in line]
