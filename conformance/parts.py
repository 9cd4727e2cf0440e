"""What the conformance run needs: the client's tests, a server of the API description, and the gateway before it.

Everything is put under ``build/conformance`` and kept there for the next run. Versions are pinned and checked
by hash: npm by its lock file, pip by its requirements file, the tests by the digest below.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "conformance"

CLIENT_VERSION = "3.54.0"
CLIENT_SHA256 = "2e393e63f8a38be6452806f9ef0b6534fecd6d41ab3b2165180dfce3599249cd"
DESCRIPTION_SHA256 = "bbfd19abcde0e7412da99378deb2a959ccdd3a812f97c9e35901921e8e973f9a"

# The key in the tests' own conftest.py. The gateway knows it by its digest, like any other.
CLIENT_KEY = "My API Key"
PROVIDER_KEY = "provider-key-of-the-conformance-run"

START_SECONDS_MAX = 60

Process = subprocess.Popen[bytes]


class PartMissingError(Exception):
    """Something that the run needs cannot be had. The message names the cure."""


def prepare() -> Path:
    """Install what is not there yet. Returns the folder of the client's source distribution."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for tool, package in (("node", "nodejs"), ("npm", "npm")):
        if shutil.which(tool) is None:
            raise PartMissingError(f"{tool} is not installed: apt-get install {package}")
    _install_server()
    _install_client()
    description = gzip.decompress((HERE / "openapi.json.gz").read_bytes())
    if hashlib.sha256(description).hexdigest() != DESCRIPTION_SHA256:
        raise PartMissingError("conformance/openapi.json.gz is not the published file: git checkout it")
    (BUILD / "openapi.json").write_bytes(description)
    return _unpack_tests()


def _run(*command: str | Path, cwd: Path = BUILD) -> None:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        shown = " ".join(str(part) for part in command)
        raise PartMissingError(f"{shown} failed:\n{done.stdout}\n{done.stderr}")


def _current(mark: Path, *sources: Path) -> bool:
    """Whether ``mark`` was left by an installation from these very files."""
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    if mark.exists() and mark.read_text() == digest:
        return True
    mark.unlink(missing_ok=True)
    return False


def _leave(mark: Path, *sources: Path) -> None:
    mark.write_text(hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest())


def _install_server() -> None:
    sources = (HERE / "package.json", HERE / "package-lock.json")
    mark = BUILD / "server.installed"
    if _current(mark, *sources):
        return
    for source in sources:
        shutil.copy(source, BUILD)
    _run("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
    _leave(mark, *sources)


def _install_client() -> None:
    requirements = HERE / "requirements.txt"
    mark = BUILD / "client.installed"
    if _current(mark, requirements):
        return
    shutil.rmtree(BUILD / "venv", ignore_errors=True)
    _run(sys.executable, "-m", "venv", "--without-pip", BUILD / "venv")
    _run(
        *_pip(), "--python", BUILD / "venv" / "bin" / "python", "install", "-q", "--require-hashes", "-r", requirements
    )
    _leave(mark, requirements)


def _pip() -> list[str]:
    """The host's pip: an environment need not have one of its own (Debian's python3-venv brings it)."""
    for python in (sys.executable, getattr(sys, "_base_executable", sys.executable)):
        found = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)
        if found.returncode == 0:
            return [python, "-m", "pip", "--disable-pip-version-check"]
    raise PartMissingError("pip is not installed: apt-get install python3-pip")


def _unpack_tests() -> Path:
    archive = BUILD / f"openai-{CLIENT_VERSION}.tar.gz"
    folder = BUILD / f"openai-{CLIENT_VERSION}"
    if not archive.exists():
        # Only this package: its build tools come as wheels, which pip wants to read its metadata.
        source = ("--no-binary", "openai", "--no-deps", f"openai=={CLIENT_VERSION}")
        _run(*_pip(), "download", "-q", "-d", BUILD, *source)
    if hashlib.sha256(archive.read_bytes()).hexdigest() != CLIENT_SHA256:
        archive.unlink()
        raise PartMissingError(f"{archive.name} is not the one that was tried: run again, or change CLIENT_SHA256")
    if not (folder / "tests" / "api_resources").is_dir():
        _run("tar", "-xzf", archive)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Serve the API description; yields its base URL. It refuses requests that do not fit the description."""
    port = free_port()
    formats = [
        f"--validator-{place}-{kind}-format=brackets" for place in ("query", "form") for kind in ("array", "object")
    ]
    command = [str(BUILD / "node_modules" / ".bin" / "steady"), "--host", "127.0.0.1", "-p", str(port), "--quiet"]
    with _running("server", [*command, *formats, "openapi.json"]) as process:
        url = f"http://127.0.0.1:{port}"
        _wait_until_answers(f"{url}/models", "server", process)
        yield url


@contextlib.contextmanager
def gateway(server_url: str) -> Iterator[str]:
    """Start ``upeti serve`` before the server; yields the gateway's base URL."""
    if importlib.util.find_spec("upeti") is None:
        raise PartMissingError("upeti is not installed in this environment: make conformance, or pip install .")
    port = free_port()
    folder = BUILD / "gateway"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = folder / "upeti.toml"
    config.write_text(f"""
data_dir = "data"
[gateway]
port = {port}
[control]
port = {free_port()}
[money]
unpriced = "record"
[[channel]]
name = "description"
kind = "openai_compatible"
base_url = "{server_url}"
api_key = "env:UPETI_CONFORMANCE_KEY"
[[route]]
name = "*"
[[route.candidate]]
channel = "description"
[[key]]
id = "client-tests"
tenant = "conformance"
sha256 = "{hashlib.sha256(CLIENT_KEY.encode()).hexdigest()}"
""")
    environment = {**os.environ, "UPETI_CONFORMANCE_KEY": PROVIDER_KEY}
    command = [sys.executable, "-m", "upeti.cli.main", "serve", "--config", str(config)]
    with _running("gateway", command, environment) as process:
        _wait_until_answers(f"http://127.0.0.1:{port}/readyz", "gateway", process)
        yield f"http://127.0.0.1:{port}/v1"


@contextlib.contextmanager
def _running(name: str, command: list[str], environment: dict[str, str] | None = None) -> Iterator[Process]:
    """Run a process with its output in ``build/conformance/NAME.log``; it is stopped at the end."""
    with (BUILD / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=BUILD, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
            if process.poll() is not None:
                raise PartMissingError(f"the {name} has died: see {log.name}")
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # npm's starter may leave its child behind
            process.wait()


def _wait_until_answers(url: str, name: str, process: Process) -> None:
    until = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise PartMissingError(f"the {name} did not start within {START_SECONDS_MAX} s: see {BUILD / name}.log")
