"""The documentation is true: its links lead somewhere, its commands exist, its examples run."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
import typer.main

from support.invoice_side import post, row
from support.journal_files import DAY_NS, START_NS, JournalFiles, opened, settled
from support.keeper_side import until
from support.upeti_process import CONFIG, KEY, UpetiProcess, upeti_process
from upeti.cli.main import build, main
from upeti.control.store import Store
from upeti.core.config import (
    Alerts,
    Budget,
    Capture,
    Channel,
    Conduct,
    Contract,
    DataPolicy,
    Feed,
    Learning,
    RateLimit,
    Route,
    Telemetry,
)
from upeti.journal.acts import read_acts
from upeti.rights import terms_files

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "conformance" / "README.md"]
ANTHROPIC = """
[[channel]]
name = "anthropic-sim"
kind = "anthropic"
base_url = "http://127.0.0.1:{port}"
api_key = "env:UPETI_TEST_KEY"
prices = "sim"

[[route]]
name = "claude-sonnet-4-5"
candidate = [{{ channel = "anthropic-sim" }}]
"""


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Yield (page, text) of every fenced block of a language."""
    for page in PAGES:
        for text in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            yield page.name, text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_linked_from_another() -> None:
    texts = {page: page.read_text() for page in PAGES}
    for page in PAGES[1:]:
        if "decisions" in page.parts:
            continue  # linked as a folder
        assert any(page.name in text for other, text in texts.items() if other != page), f"nothing links to {page.name}"


def command_lines() -> list[str]:
    lines = []
    for _, text in blocks("sh"):
        for line in text.splitlines():
            line = line.partition("  #")[0].strip()
            if line.startswith("upeti "):
                lines.append(line)
    return lines


@pytest.mark.parametrize("line", sorted(set(command_lines())))
def test_commands_in_the_docs_exist(line: str) -> None:
    command = typer.main.get_command(build(None))
    words = shlex.split(line)[1:]
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands") or words == ["--version"], f"{line}: there is no command {words[:1]}"
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in names | {"--help"}, f"{line}: there is no option {word}"


def test_every_command_is_in_the_reference() -> None:
    reference = (ROOT / "docs" / "commands.md").read_text()
    for name in typer.main.get_command(build(None)).commands:  # type: ignore[attr-defined]
        assert f"`upeti {name}" in reference


def test_settings_in_the_docs_are_right(tmp_path: Path) -> None:
    found = 0
    for page, text in blocks("toml"):
        settings = tomllib.loads(text)
        if "clause" in settings:
            path = tmp_path / "terms.toml"
            path.write_text(text)
            terms_files.load([path])  # raises with the row's line
            found += 1
            continue
        for name, kind in (
            ("channel", Channel),
            ("route", Route),
            ("budget", Budget),
            ("rate_limit", RateLimit),
            ("contract", Contract),
            ("data_policy", DataPolicy),
        ):
            for one in settings.pop(name, []):
                msgspec.convert(one, kind)  # raises with the field's name
                found += 1
        kinds = {
            "telemetry": Telemetry,
            "alerts": Alerts,
            "capture": Capture,
            "conduct": Conduct,
            "feed": Feed,
            "learning": Learning,
        }
        for name, kind in kinds.items():
            if name in settings:
                msgspec.convert(settings.pop(name), kind)
                found += 1
        assert not settings, f"{page}: a block with {list(settings)} is checked nowhere"
    assert found


def test_every_setting_is_in_the_reference() -> None:
    script = ROOT / "tools" / "configuration_reference.py"
    assert subprocess.run([sys.executable, script, "--check"], check=False).returncode == 0


def test_the_how_to_of_a_review_and_of_a_revocation_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pages' own lines, one after the other, and what they say comes of it."""
    monkeypatch.chdir(tmp_path)
    channel = '[[channel]]\nname = "{0}"\nkind = "openai_compatible"\nbase_url = "https://{0}.example/v1"\n'
    (tmp_path / "upeti.toml").write_text("".join(map(channel.format, ("openai", "deepseek"))))

    def run(line: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(line)[1:])
        printed = capsys.readouterr()
        assert not ended.value.code, f"{line}: {printed.err}"
        return printed.out

    def lines(page: str) -> list[str]:
        found = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
        return [line for text in found for line in text.splitlines()]

    said = {line: run(line) for line in lines("how-to-review-terms.md")}
    assert said["upeti rights explain deepseek classify_internal"].startswith("ALLOW: ")
    assert said["upeti rights explain deepseek general_model"].startswith("DENY: ")
    Path("letter.txt").write_text("You may.")
    run('upeti rights bind openai openai-services-2026-01-01 --by "head of risk" --why order')
    made = run("upeti rights grant openai general_model --evidence letter.txt --by Ann --why letter --json")
    assert run("upeti rights explain openai general_model").startswith("ALLOW: ")
    listed, revoked, explained = lines("how-to-revoke-a-right.md")
    run(listed)
    run(re.sub(r"grt_[0-9a-f]+", json.loads(made)["id"], revoked))
    assert run(explained).startswith("DENY: ")
    kinds = [done.kind for done in read_acts(tmp_path / "upeti-data")]
    assert kinds.count("rights.reviewed") == 2
    assert kinds[-2:] == ["rights.granted", "rights.revoked"]


@pytest.fixture(scope="module")
def upeti(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpetiProcess]:
    with upeti_process(tmp_path_factory.mktemp("docs"), CONFIG + ANTHROPIC) as process:
        process.start()
        yield process


@pytest.mark.parametrize(
    ("example", "model"),
    [("openai_client.py", "m"), ("azure_client.py", "m"), ("anthropic_client.py", "claude-sonnet-4-5")],
)
def test_examples_run(upeti: UpetiProcess, example: str, model: str) -> None:
    environment = os.environ | {
        "OPENAI_BASE_URL": f"{upeti.gateway}/v1",
        "OPENAI_API_KEY": KEY,
        "AZURE_OPENAI_ENDPOINT": upeti.gateway,
        "AZURE_OPENAI_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": upeti.gateway,
        "ANTHROPIC_API_KEY": KEY,
    }
    command = [sys.executable, ROOT / "examples" / example, model]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()


# What needs PyTorch is run by tests/learning/test_generative.py.
@pytest.mark.parametrize(
    ("page", "text"), [(page, text) for page, text in blocks("python") if page != "own-models-larger.md"]
)
def test_python_in_the_docs_runs(upeti: UpetiProcess, page: str, text: str) -> None:
    text = (
        text.replace("http://127.0.0.1:8080", upeti.gateway)
        .replace("upeti-…", KEY)
        .replace("upeti-data", str(upeti.data_dir))
    )
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, f"{page}: {ran.stderr}"
    assert ran.stdout.strip()


def test_the_reconciliation_how_to_runs(upeti: UpetiProcess) -> None:
    """A bill, the provider's file, the report, the correction: the page's own lines, after a stream that was cut."""
    body = {"model": "m-cut", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    request = urllib.request.Request(
        f"{upeti.gateway}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {KEY}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        answer.read()
    bill = ["--log", upeti.folder / "provider.jsonl", "--prices", upeti.folder / "prices.toml", "--output", "calls.csv"]
    subprocess.run([sys.executable, "-m", "upeti.sim.provider_bill", *bill], check=True, timeout=60, cwd=upeti.folder)
    (how_to,) = [text for page, text in blocks("sh") if page == "reconciliation.md"]
    said = []
    for line in how_to.splitlines():
        words = shlex.split(line.partition("  #")[0])[1:]
        ran = upeti.command(*words, cwd=upeti.folder)
        assert ran.returncode == 0, f"{line}: {ran.stdout}{ran.stderr}"
        said.append(ran.stdout)
    assert "lost" in said[1]
    assert "Would write 1 corrections" in said[2]
    assert "lost" not in said[4], "corrected"
    assert "<h1>Reconciliation</h1>" in (upeti.folder / "reconciliation.html").read_text()


def test_the_month_of_the_invoices_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tenants.toml", "rates.toml"):
        (tmp_path / name).write_text((ROOT / "examples" / name).read_text())
    (tmp_path / "upeti.toml").write_text('[money]\ntenants_file = "tenants.toml"\nrates_file = "rates.toml"\n')
    store = Store(tmp_path / "upeti-data")
    post(store, row("warung"), row("orchard", meters={"input": 123_456_789}), row("feed"))
    page = (ROOT / "docs" / "invoices.md").read_text()
    how_to = page[page.index("<!-- how-to") : page.index("<!-- /how-to -->")]
    lines = [
        line
        for text in re.findall(r"^```sh\n(.*?)^```", how_to, re.MULTILINE | re.DOTALL)
        for line in text.splitlines()
    ]
    assert len(lines) > 10
    for line in lines:
        if line.startswith("upeti invoice issue warung"):
            post(store, row("warung", outcome="corrected", meters={}, attempts=0, cost_pico=-(10**12)))
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(line)[1:])
        printed = capsys.readouterr()
        assert not ended.value.code, f"{line}: {printed.err}"
        assert printed.out.strip(), line
    store.close()
    assert "credited" in printed.out
    assert (tmp_path / "invoice.pdf").read_bytes().startswith(b"%PDF-")


def test_the_close_of_a_month_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A journal of October, posted, verified, closed, charged back: the page's own lines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "upeti.toml").write_text("")
    files = JournalFiles(tmp_path / "upeti-data")
    files.append(opened(1, at_ns=START_NS - DAY_NS), settled(1, at_ns=START_NS - DAY_NS))
    files.close()
    page = (ROOT / "docs" / "ledger.md").read_text()
    how_to = page[page.index("<!-- how-to") : page.index("<!-- /how-to -->")]
    printed = {}
    for text in re.findall(r"^```sh\n(.*?)^```", how_to, re.MULTILINE | re.DOTALL):
        for line in text.splitlines():
            with pytest.raises(SystemExit) as ended:
                main(shlex.split(line)[1:])
            output = capsys.readouterr()
            assert not ended.value.code, f"{line}: {output.err}"
            printed[line] = output.out
    assert "1 segments were posted" in printed["upeti ledger post"]
    assert "debits and credits are equal" in printed["upeti ledger balance"]
    assert "1 batches, 1 segments" in printed["upeti ledger verify"]
    assert "2026-10 is closed with batch 2" in printed["upeti ledger close 2026-10"]
    assert "0.000001234567" in printed["upeti chargeback --period 2026-10 --by tenant,feature"]
    assert (tmp_path / "chargeback.parquet").exists()


def test_the_how_to_of_a_budget_runs(upeti: UpetiProcess) -> None:
    """Its commands one after the other: set, be refused, look, raise, be served."""
    page = (ROOT / "docs" / "budgets.md").read_text()
    how_to = page[page.index("## How to") : page.index("## Which calls")]
    steps = re.findall(r"^```(sh|python)\n(.*?)^```", how_to, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in steps] == ["sh", "python", "sh"]
    program = steps[1][1].replace("http://127.0.0.1:8080", upeti.gateway).replace("upeti-…", KEY)

    def answer() -> str:
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def commands(text: str) -> list[str]:
        printed = []
        for line in text.splitlines():
            ran = upeti.command(*shlex.split(line)[1:])
            assert ran.returncode == 0, ran.stderr
            printed.append(ran.stdout)
        return printed

    commands(steps[0][1])
    until(lambda: answer().startswith("refused: 429 budget_exceeded"), what="the budget")
    refusal = answer()
    assert "The budget 'acme-month' has 0.00001 of 0.00001 USD left until 20" in refusal
    assert "T00:00:00+07:00; this call can cost up to 0.000" in refusal
    shown, raised, listed = commands(steps[2][1])
    assert "acme-month: 0.00001 USD a month (Asia/Jakarta) for tenant acme, hard; 0 is spent until 20" in shown
    assert "acme-month: 100 USD a month" in raised
    assert "acme-month@20" in listed
    until(lambda: answer().startswith("served: "), what="the higher limit")
    until(lambda: upeti.ask("/v1/budgets/acme-month")["spent"] != "0", what="what was spent")
    assert upeti.command("budget", "delete", "acme-month").returncode == 0


def test_the_how_to_of_a_feed_runs(tmp_path: Path) -> None:
    """From two CSV files to a ranked feed, by the commands of its page."""
    page = (ROOT / "docs" / "feed.md").read_text()
    steps, request = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[:2]

    def run(*words: str) -> str:
        ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    upeti = (sys.executable, "-m", "upeti.cli.main")
    lines = [shlex.split(line, comments=True) for line in steps.splitlines()]
    assert [words[0] for words in lines] == ["pip", "pip", "upeti", "upeti", "python", "upeti", "upeti", "upeti"]
    run(*upeti, *lines[2][1:])
    key = next(word for word in run(*upeti, *lines[3][1:]).split() if word.startswith("upeti-"))
    run(sys.executable, str(ROOT / lines[4][1]))
    assert "252 items and 4," in run(*upeti, *lines[5][1:])
    fitted = run(*upeti, *lines[6][1:])
    assert "serves now" in fitted, fitted
    service = subprocess.Popen([*upeti, *lines[7][1:], "--port", "0"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        address = tmp_path / "upeti-data" / "run" / "feed-address"
        until(address.exists, seconds=60)
        place = address.read_text().strip()
        words = shlex.split(
            request.replace("127.0.0.1:8082", place).replace("upeti-…", key).replace("user=ana", "user=user-7")
        )
        until(lambda: subprocess.run([*words, "-sf"], capture_output=True, check=False).returncode == 0, seconds=60)
        items = json.loads(run(*words, "-s"))["items"]
        assert len(items) == 5
        assert any(one["reason"]["code"] in ("neighbour_of", "similar_to", "liked_by_like") for one in items)
    finally:
        service.terminate()
        service.wait()


def test_the_demo_runs(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "examples" / "demo.py", "--act", "1", "--stop", "--directory", tmp_path / "demo"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    bill = [
        sys.executable,
        "-m",
        "upeti.cli.main",
        "bill",
        "--by",
        "tenant",
        "--json",
        "--data-dir",
        tmp_path / "demo" / "data",
    ]
    lines = json.loads(subprocess.run(bill, capture_output=True, text=True, check=True).stdout)["lines"]
    assert {line["tenant"]: line["calls"] for line in lines} == {
        "warung": 4,
        "pasar": 3,
    }  # one call warmed the model up
    assert all(line["unpriced"] == 0 and line["estimated"] == "0" for line in lines)
    assert "USD = 16100 IDR" in ran.stdout


def ended(folder: Path) -> bool:
    """Say whether nothing runs any more of what the second act has started."""
    pids = [int(file.read_text()) for file in folder.glob("own-model/*.pid")]
    assert len(pids) == 2
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name leaves room for that of a Unix socket."""
    with TemporaryDirectory(prefix="upeti-") as name:
        yield Path(name)


def test_the_second_act_of_the_demo_runs(short_path: Path) -> None:
    """Few messages and the quickest student; what is seen is the same."""
    demo, picture = ROOT / "examples" / "demo.py", short_path / "demo.svg"
    command = [sys.executable, demo, "--act", "2", "--short", "--directory", short_path / "demo", "--picture", picture]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, cwd=short_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for seen in (
        "intent@1 is in the shadow",
        "intent@1 is live",
        "the alarm rang",
        "audits gave the alarm",
        "instead of",
    ):
        assert seen in ran.stdout, ran.stdout
    drifted, early = "the data set's own labels stand in for the teacher", "rang before anything had changed"
    assert (drifted in ran.stdout) != (early in ran.stdout), "a false alarm is rare, and is said"
    assert ended(short_path / "demo")
    assert "http" not in picture.read_text().replace("http://www.w3.org/2000/svg", "").replace(
        "https://www.textualize.io", ""
    )
    bill = [sys.executable, "-m", "upeti.cli.main", "bill", "--by", "feature,channel", "--json"]
    asked = subprocess.run(
        [*bill, "--data-dir", short_path / "demo" / "own-model" / "data"], capture_output=True, text=True, check=True
    )
    calls = {(line["feature"], line["channel"]): line["calls"] for line in json.loads(asked.stdout)["lines"]}
    assert calls["support", "recorded"] > 1_500
    assert calls["support", "own"] > 50
    assert calls["audit", "recorded"] > 10


def test_the_second_act_ends_at_ctrl_c(short_path: Path) -> None:
    command = [sys.executable, "-u", ROOT / "examples" / "demo.py", "--act", "2", "--directory", short_path / "demo"]
    act = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=short_path)
    assert act.stdout is not None
    for line in act.stdout:
        if line.startswith("1. GPT-4 answers"):
            break
    act.send_signal(signal.SIGINT)
    said, wrong = act.communicate(timeout=100)
    assert (act.returncode, wrong) == (130, ""), said + wrong
    assert said.endswith("Stopped.\n")
    assert ended(short_path / "demo")


def test_the_example_of_tasks_runs(tmp_path: Path) -> None:
    command = [
        sys.executable,
        ROOT / "examples" / "own_model" / "messages.py",
        "--directory",
        tmp_path / "own",
        "--messages",
        "160",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "found-" in ran.stdout
    assert "said the same in 20 of 20" in ran.stdout
    assert "bank-intent is declared" in ran.stdout
    assert "of which 160 of 160 kept pairs are" in ran.stdout


def test_the_month_of_the_story_runs_and_its_sums_agree(tmp_path: Path) -> None:
    command = [
        sys.executable,
        ROOT / "examples" / "story_month.py",
        "--directory",
        tmp_path / "story",
        "--samples",
        "1000",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("\nequal  ") == 7
    for name in ("invoice.pdf", "customers.svg", "suppliers.svg", "focus.csv", "focus-invoice.csv"):
        assert (tmp_path / "story" / name).stat().st_size > 1_000
    assert "8,300,000,000 calls in 2026-10, 12,660 a second at most" in ran.stdout
