"""One worker process: ``python -m upeti.gateway.worker --data-dir DIR --index N``.

Started by ``upeti serve``. SIGTERM and SIGINT drain it: it takes no new calls, finishes those in flight, and leaves.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import ssl
import sys
from pathlib import Path

import uvloop

from upeti.core.errors import ConfigError
from upeti.gateway.gateway import Gateway
from upeti.gateway.server import ClientConnection

_BACKLOG = 4096  # as nginx and HAProxy are commonly set; the kernel cuts it to net.core.somaxconn


async def serve(data_dir: Path, index: int) -> None:
    """Serve until told to stop. Raises ``ConfigError``."""
    loop = asyncio.get_running_loop()
    gateway = Gateway(data_dir, index, loop)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, gateway.swap)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # the supervisor starts us with it blocked
    keeper = loop.create_task(gateway.keeper.run())
    limits = gateway.limits
    server = await loop.create_server(
        lambda: ClientConnection(gateway),
        limits.host,
        limits.port,
        reuse_port=True,
        backlog=_BACKLOG,
        ssl=_tls(limits.tls_certificate, limits.tls_key),
    )
    gateway.tick()
    # What exists now lives as long as the process, and calls leave no cycles behind: the collector has little to find, and
    # at its usual threshold of 700 objects it takes a tenth of the CPU.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    await stopping.wait()
    server.close()
    await gateway.drain()
    keeper.cancel()


def _tls(certificate: str, key: str) -> ssl.SSLContext | None:
    if not certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise ConfigError(f"gateway.tls_certificate: {error}") from error
    return context


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="upeti-worker", description="One worker of the gateway; started by `upeti serve`."
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--index", type=int, required=True)
    arguments = parser.parse_args()
    try:
        uvloop.run(serve(arguments.data_dir, arguments.index))
    except ConfigError as error:
        print(f"upeti: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
