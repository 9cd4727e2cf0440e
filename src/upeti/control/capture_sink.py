"""Keeping exchanges: who has consented, what the contract permits, redacted, under digests, journaled, then listed.

Rules: nothing is kept without a consent in force and a permit to store; why something was left out is counted. Bodies are
written first, then the journal (on the disk), then the table: whatever is broken off leaves at most a body that no pair
has, which is swept, or a pair that the next start adds to the table.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import msgspec

from upeti.control import consents, pairs
from upeti.control.consents import Consent
from upeti.control.store import Store
from upeti.core import config as c
from upeti.core.events import PairCaptured
from upeti.gateway.capture import Exchange
from upeti.gateway.log import Log
from upeti.journal.blocks import captured_dir
from upeti.journal.bodies import bodies_at
from upeti.journal.writer import SyncJournal
from upeti.rights.permit import permit
from upeti.rights.redaction import Finder, NotRedactableError, Redactor, own_rule
from upeti.rights.terms import Terms
from upeti.wire.assemble import whole_answer

_STORE: Final = "store"
_SEGMENT_PAIRS: Final = 100_000
# Fields of the APIs that name the end user: OpenAI's two, and Anthropic's within metadata.
_USER_FIELDS: Final = ("safety_identifier", "user")


class _Taken(msgspec.Struct, frozen=True):
    exchange: Exchange
    consent: str
    contract: str
    clause: str
    grant: str
    user: str
    redactions: dict[str, int]
    request: bytes
    answer: bytes


class CaptureSink:
    """Keeps what may be kept."""

    def __init__(self, data_dir: Path, store: Store, settings: c.Capture, log: Log) -> None:
        """Raises ``ConfigError`` when bodies cannot be kept or redacted as the settings say."""
        self._data_dir = data_dir
        self._store = store
        self._log = log
        self._bodies = bodies_at(data_dir, settings.url)
        self._redactor = redactor_of(settings)
        self._settings = settings
        self._consents: dict[str, Consent] = {}
        self._terms = Terms()
        self._taken: list[_Taken] = []
        self._left_out: Counter[tuple[str, str, str, str]] = Counter()
        self._salts: dict[str, bytes] = {}
        self._journal: SyncJournal | None = None
        self._in_segment = 0
        added = pairs.rebuild(store, data_dir, self._bodies)
        if added:
            log.info("capture_rebuilt", "pairs of the journals were added to the table", pairs=added)

    def learn(self, config: c.Config, terms: Terms) -> None:
        if config.capture != self._settings:
            self._bodies = bodies_at(self._data_dir, config.capture.url)
            self._redactor = redactor_of(config.capture)
            self._settings = config.capture
        self._consents = consents.in_force(self._store) if config.capture.enabled else {}
        self._terms = terms
        self._salts.clear()  # a tenant that was erased gets another one

    def take(self, exchange: Exchange) -> None:
        if not exchange.keep:
            return
        try:
            self._taken.append(self._prepare(exchange))
        except _LeftOutError as error:
            day = time.strftime("%Y-%m-%d", time.gmtime(exchange.at_ns // 10**9))
            self._left_out[day, exchange.tenant, exchange.channel, str(error)] += 1

    def flush(self) -> None:
        taken, self._taken = self._taken, []
        if taken:
            self._keep(taken)
        noted, self._left_out = self._left_out, Counter()
        if noted:
            pairs.note_left_out(self._store, noted)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    def _prepare(self, exchange: Exchange) -> _Taken:
        """Return the exchange, judged and redacted. Raises ``_LeftOutError`` with the reason."""
        consent = self._consents.get(exchange.tenant)
        if consent is None or (consent.features and exchange.feature not in consent.features):
            raise _LeftOutError("no_consent")
        if not 200 <= exchange.status < 300:
            raise _LeftOutError("no_answer")
        origin = self._terms.origin_now(exchange.channel, exchange.at_ns, exchange.tenant, exchange.model)
        found = permit(self._terms, origin, _STORE, exchange.at_ns)
        if not found.allowed:
            raise _LeftOutError(f"contract_{found.decision}")
        answer = whole_answer(exchange.wire, exchange.answer) if exchange.stream else _json(exchange.answer)
        request = _json(exchange.request)
        if answer is None or not isinstance(request, dict):
            raise _LeftOutError("not_readable")
        user = exchange.user or _user_of(request)
        redaction = self._redactor.pair()
        try:
            bodies = redaction.value(_without_user(request)), redaction.value(answer)
        except NotRedactableError:
            raise _LeftOutError("not_redactable") from None
        counts = dict(redaction.counts)
        return _Taken(exchange, consent.id, found.contract, found.clause, found.grant, user, counts, *bodies)

    def _keep(self, taken: list[_Taken]) -> None:
        records: list[PairCaptured] = []
        for one in taken:
            salt = self._salt(one.exchange.tenant)
            digests = [self._bodies.put(salt, data) for data in (one.request, one.answer)]
            records.append(_record(one, salt, *digests))
        if self._journal is None:
            name = f"capture-{token_hex(8)}"
            self._journal = SyncJournal(captured_dir(self._data_dir), name, time.time_ns)
        self._journal.append(list(records))
        self._in_segment += len(records)
        if self._in_segment >= _SEGMENT_PAIRS:
            self._journal.rotate()
            self._in_segment = 0
        pairs.keep(self._store, records)

    def _salt(self, tenant: str) -> bytes:
        salt = self._salts.get(tenant)
        if salt is None:
            salt = self._salts[tenant] = pairs.salt_of(self._store, tenant)
        return salt


class _LeftOutError(Exception):
    """Why an exchange is not kept: one word, which is counted."""


def redactor_of(settings: c.Capture) -> Redactor:
    """Return what redacts under these settings. Raises ``ConfigError``."""
    finders: list[Finder] = []
    if settings.names:
        from upeti.control.name_finder import name_finder

        finders.append(name_finder(settings.names_model))
    return Redactor([own_rule(rule.kind, rule.pattern) for rule in settings.rule], finders)


def _record(one: _Taken, salt: bytes, request_digest: str, answer_digest: str) -> PairCaptured:
    exchange = one.exchange
    return PairCaptured(
        pair_id=f"{exchange.call_id}-{exchange.attempt}",
        at_ns=exchange.at_ns,
        call_id=exchange.call_id,
        tenant=exchange.tenant,
        project=exchange.project,
        key=exchange.key,
        feature=exchange.feature,
        task=exchange.task,
        user_digest=pairs.user_digest(salt, one.user),
        route=exchange.route,
        channel=exchange.channel,
        model=exchange.model,
        wire=exchange.wire,
        contract=one.contract,
        clause=one.clause,
        grant=one.grant,
        consent=one.consent,
        redactions=one.redactions,
        request_digest=request_digest,
        answer_digest=answer_digest,
        request_bytes=len(one.request),
        answer_bytes=len(one.answer),
    )


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _user_of(request: dict[str, Any]) -> str:
    metadata = request.get("metadata")
    named = [request.get(field) for field in _USER_FIELDS]
    named.append(metadata.get("user_id") if isinstance(metadata, dict) else None)
    return next((one for one in named if isinstance(one, str) and one), "")


def _without_user(request: dict[str, Any]) -> dict[str, Any]:
    """Who asked is in the record, as a digest; the body does not say it."""
    bare = {name: value for name, value in request.items() if name not in _USER_FIELDS}
    if isinstance(bare.get("metadata"), dict):
        bare["metadata"] = {name: value for name, value in bare["metadata"].items() if name != "user_id"}
    return bare
