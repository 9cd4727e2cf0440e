"""The feed service as a process: ``python -m upeti.control.feed_service --config FILE``, or `upeti feed serve`.

Keys are the gateway's: those of the state and of the configuration, looked up by SHA-256, and a change is heeded within a
second. Whose key it is says whose feed it is. A tenant whom a case has suspended is told so here too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from upeti.control import config_file
from upeti.control.case_effects import effects, notices_for
from upeti.control.compile import digest_of
from upeti.control.database import url_of
from upeti.control.places import Places, TakenError, write_private
from upeti.control.ports import hold
from upeti.control.store import Store
from upeti.core.config import Config
from upeti.core.errors import ConfigError, Forbidden, UpetiError
from upeti.feed.http import unknown_key
from upeti.gateway.log import Log

EXIT_TAKEN: Final = 3
ADDRESS_FILE: Final = (
    "feed-address"  # in the data directory's run: ``host:port``, for who was started without knowing it
)
_LOOK_S: Final = 0.5


class FeedKeys:
    """SHA-256 of a key → its tenant, as the state and the configuration say now."""

    def __init__(self, store: Store, config: Config, now_s: Callable[[], float] = time.time) -> None:
        """Raises ``ConfigError`` for a key whose secret cannot be found."""
        self._store = store
        self._config = config
        self._now_s = now_s
        self._of_file = {
            bytes.fromhex(key.sha256) if key.secret is None else digest_of(key.secret): key.tenant for key in config.key
        }
        self._of_state: dict[bytes, tuple[str, int]] = {}
        self._notices: dict[str, str] = {}
        self._changes = -1
        self._looked_s = 0.0

    def __call__(self, digest: bytes) -> str:
        """Return the tenant. Raises ``Unauthenticated``, ``Forbidden``."""
        self._look()
        tenant = self._of_file.get(digest)
        if tenant is None:
            tenant, expires_ns = self._of_state.get(digest, ("", 0))
            if not tenant or (expires_ns and expires_ns <= self._now_s() * 10**9):
                raise unknown_key()
        notice = self._notices.get(tenant)
        if notice is not None:
            raise Forbidden("tenant_suspended", notice)
        return tenant

    def _look(self) -> None:
        now_s = self._now_s()
        if 0 <= now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        try:
            changes = self._store.changes()
            if changes == self._changes:
                return
            rows = self._store.all_keys()
            self._of_state = {
                bytes.fromhex(row.sha256): (row.tenant, row.expires_ns) for row in rows if not row.revoked_ns
            }
            made = effects(self._store)
            told = notices_for(made, self._config.conduct)
            self._notices = {
                tenant: told.get(case, "This tenant is suspended.") for tenant, case in made.suspended.items()
            }
            self._changes = changes
        except SQLAlchemyError:
            pass  # the state is away: the keys that were known go on


def serve(config_path: Path, *, port: int | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises ``ConfigError``, ``TakenError``."""
    # Before numpy is imported: BLAS reads it once, and the other cores are for others.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    try:
        import uvicorn

        from upeti.feed.api import create_app
        from upeti.feed.service import FeedService
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: `pip install 'upeti[feed]'`") from None
    config = config_file.load(config_path)
    places = Places(Path(config.data_dir))
    places.make()
    lock = places.lock("feed")
    log = Log("feed", time.time_ns)
    keys = FeedKeys(Store(places.data_dir, url=url_of(config.state)), config)
    service = FeedService(
        places.data_dir,
        config.feed,
        power=config.journal.durability == "power",
        say=lambda text: log.info("feed", text),
    )
    listening = hold(config.feed.host, config.feed.port if port is None else port, "feed.port")
    address = "{}:{}".format(*listening.getsockname()[:2])
    server = uvicorn.Server(uvicorn.Config(create_app(service, keys), log_config=None, access_log=False, loop="uvloop"))
    write_private(places.run / ADDRESS_FILE, f"{address}\n")
    log.info("feed_listens", f"the feed service listens on {address}", address=address)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them once more when it has ended in good order
        signal.signal(number, lambda *_: None)
    try:
        asyncio.run(server.serve(sockets=[listening]))
    finally:
        os.close(lock)


def main() -> int:
    parser = argparse.ArgumentParser(description="Serve feeds.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--settings", default="", help="What [feed] says; another one is another process.")
    given = parser.parse_args()
    try:
        serve(given.config)
    except TakenError as error:
        print(f"upeti: {error}", file=sys.stderr)
        return EXIT_TAKEN
    except UpetiError as error:
        print(f"upeti: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
