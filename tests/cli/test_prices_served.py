"""From a call to its explanation and its correction, with everything running: gateway, keeper, provider."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
from typer.testing import CliRunner

from support.upeti_process import CONFIG, KEY, PRICES, UpetiProcess, upeti_process
from upeti.cli.main import build

DEARER = '[[price]]\nmodels = ["*"]\nfrom = 2026-01-01\ncurrency = "USD"\ntier = "priority"\n'
DEARER += 'per_million = { input = "3", output = "7" }\nsource = "made up for the tests"\nsource_date = 2026-11-23\n'


def upeti(process: UpetiProcess, *arguments: str) -> Any:
    done = CliRunner().invoke(build(arguments[0]), [*arguments, "--config", str(process.config), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_call_at_another_tier_is_explained_and_repriced(tmp_path: Path) -> None:
    with upeti_process(tmp_path, CONFIG) as process:
        (tmp_path / "prices.toml").write_text(PRICES + "\n" + DEARER)
        process.start()
        client = openai.OpenAI(base_url=f"{process.gateway}/v1", api_key=KEY, max_retries=0)
        answer = client.chat.completions.with_raw_response.create(
            model="m-in1000-out10",
            messages=[{"role": "user", "content": "Halo"}],
            max_tokens=10,
            service_tier="priority",
        )
        call, cost = answer.headers["x-request-id"], answer.headers["x-upeti-cost"]
        assert cost == "0.00307"
        assert answer.parse().service_tier == "priority"
        (one,) = upeti(process, "prices", "explain", call)
        assert (one["tier"], one["sum"], one["cost"], one["corrections"]) == ("priority", cost, cost, [])
        assert one["file"].endswith("prices.toml:11")

        (tmp_path / "prices.toml").write_text(PRICES + "\n" + DEARER.replace('input = "3"', 'input = "2"'))
        day = one["settled_at"][:10]
        days = ("--from", day, "--to", day)
        (change,) = upeti(process, "prices", "reprice", *days)
        assert (change["was"], change["now"], change["tier"]) == (cost, "0.00207", "priority")
        assert upeti(process, "prices", "reprice", *days) == []
        (one,) = upeti(process, "prices", "explain", call)
        (correction,) = one["corrections_of_the_day"]
        assert (correction["reason"], correction["difference"]) == ("repriced", "-0.001")
        assert one["cost"] == cost, "what was recorded stays"
        bill = upeti(process, "bill", "--by", "tenant")
        assert bill["totals"][0]["cost"] == "0.00207"
