"""The control API's part for rights: explain, list, review, grant, deny, bind, each with a name and a reason.

Evidence comes in the request, base64; no path is taken from a request, so none of this machine's files can be asked for.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query
from pydantic import Field

from upeti.control import rights, rights_view
from upeti.control.api_parts import Authorize, Bearer, Keeper, Signed, document_in, refusals
from upeti.rights.terms import Terms


class NewBinding(Signed):
    """Under which contract version a channel's account is."""

    channel: str
    contract: str = Field(description="Id of a contract version.")
    begins: datetime | None = Field(None, description="First moment. Empty: now.")
    until: datetime | None = Field(None, description="First moment at which it holds no more.")
    order_form: str = Field("", description="The signed order form, base64.")
    order_form_name: str = Field("order-form", description="Its file name.")


class NewReview(Signed):
    """What a named person reads in a clause."""

    clause: str
    decision: str = Field(description="`allow`, `deny`, `ask`, or `confirm`: as the file reads it.")
    purposes: list[str] = Field([], description="Empty: all that the clause decides.")


class NewGrant(Signed):
    """A written permission."""

    channel: str
    purpose: str
    evidence: str = Field(description="The permission itself, base64; its hash and a private copy are kept.")
    evidence_name: str = Field(description="Its file name.")
    party: str = Field("", description="Who permits. Empty: the party of the channel's contract.")
    begins: datetime | None = Field(None, description="First moment. Empty: now.")
    until: datetime | None = Field(None, description="First moment at which it holds no more.")
    captured_from: datetime | None = Field(
        None, description="It covers answers captured from then on. Empty: `begins`."
    )
    tenant: str = Field("", description="Only this tenant's traffic. Empty: all.")
    models: list[str] = Field([], description="Only these models. Empty: all.")
    duties: list[str] = Field([], description="What comes with it, such as `notice:TEXT`.")


class NewDenial(Signed):
    """What is denied on a channel, whoever permits it."""

    channel: str
    purpose: str
    tenant: str = Field("", description="Only this tenant's traffic. Empty: all.")


class Ending(Signed):
    """The end of a contract."""

    until: datetime | None = Field(None, description="First moment at which it holds no more. Empty: now.")


def add_rights(app: FastAPI, keeper: Keeper, authorize: Authorize) -> None:
    """Add the routes below ``/v1/rights``. Handlers wait for the disk, so they are plain functions."""
    _add_reading(app, keeper, authorize)
    _add_deciding(app, keeper, authorize)
    _add_taking_back(app, keeper, authorize)


def _terms(keeper: Keeper) -> Terms:
    with refusals():
        return rights.terms_in_force(keeper.store, keeper.config)


def _add_reading(app: FastAPI, keeper: Keeper, authorize: Authorize) -> None:
    @app.get("/v1/rights", summary="What may be done with the answers of every channel, and who said so")
    def list_rights(credentials: Bearer, at: datetime | None = None, tenant: str = "") -> dict[str, Any]:
        authorize(credentials)
        terms = _terms(keeper)
        records = {name: getattr(terms, name) for name in ("bindings", "grants", "denials", "reviews")}
        channels = rights_view.rights_of_channels(terms, _ns(at), tenant)
        found: dict[str, Any] = msgspec.to_builtins({"channels": channels, **records})
        return found

    @app.get("/v1/rights/explain", summary="One decision with all it rests on")
    def explain(
        credentials: Bearer,
        channel: str,
        purpose: str,
        at: datetime | None = None,
        captured: datetime | None = None,
        tenant: str = "",
        model: str = "",
    ) -> dict[str, Any]:
        authorize(credentials)
        terms, at_ns = _terms(keeper), _ns(at)
        origin = terms.origin_now(channel, _ns(captured) if captured else at_ns, tenant, model)
        found: dict[str, Any] = msgspec.to_builtins(rights_view.explain(terms, keeper.config, origin, purpose, at_ns))
        return found

    @app.get("/v1/rights/contracts", summary="Contract versions that files of terms have")
    def contracts(credentials: Bearer) -> list[dict[str, Any]]:
        authorize(credentials)
        return _built(_terms(keeper).contracts)

    @app.get("/v1/rights/clauses", summary="Clauses with their words and their reading")
    def clauses(
        credentials: Bearer, contract: Annotated[str, Query(description="Only this one and what it includes.")] = ""
    ) -> list[dict[str, Any]]:
        authorize(credentials)
        terms = _terms(keeper)
        wanted = terms.closure(contract) or [contract] if contract else []
        return _built(rights_view.clauses_of(terms, wanted))


def _add_deciding(app: FastAPI, keeper: Keeper, authorize: Authorize) -> None:
    @app.post("/v1/rights/bindings", status_code=201, summary="Say under which contract a channel is")
    def bind(wanted: NewBinding, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        with refusals():
            order_form = document_in(wanted.order_form_name, wanted.order_form) if wanted.order_form else None
            made = rights.bind(
                keeper.store,
                _terms(keeper),
                wanted.channel,
                wanted.contract,
                from_ns=_ns(wanted.begins),
                until_ns=_ns(wanted.until) if wanted.until else 0,
                order_form=order_form,
                by=wanted.by,
                why=wanted.why,
            )
        return _told(keeper, made)

    @app.post("/v1/rights/reviews", status_code=201, summary="Record what a named person reads in a clause")
    def review(wanted: NewReview, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        with refusals():
            made = rights.review(
                keeper.store,
                _terms(keeper),
                wanted.clause,
                wanted.decision,
                purposes=tuple(wanted.purposes),
                by=wanted.by,
                why=wanted.why,
            )
        return _told(keeper, made)

    @app.post("/v1/rights/grants", status_code=201, summary="Record a written permission")
    def grant(wanted: NewGrant, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        with refusals():
            made = rights.grant(
                keeper.store,
                _terms(keeper),
                wanted.channel,
                wanted.purpose,
                document_in(wanted.evidence_name, wanted.evidence),
                by=wanted.by,
                why=wanted.why,
                party=wanted.party,
                from_ns=_ns(wanted.begins) if wanted.begins else 0,
                until_ns=_ns(wanted.until) if wanted.until else 0,
                captured_from_ns=_ns(wanted.captured_from) if wanted.captured_from else None,
                tenant=wanted.tenant,
                models=tuple(wanted.models),
                duties=tuple(wanted.duties),
            )
        return _told(keeper, made)

    @app.post("/v1/rights/denials", status_code=201, summary="Deny a purpose on a channel, whoever permits it")
    def deny(wanted: NewDenial, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        channels = [channel.name for channel in keeper.config.channel]
        with refusals():
            made = rights.deny(
                keeper.store,
                channels,
                wanted.channel,
                wanted.purpose,
                tenant=wanted.tenant,
                by=wanted.by,
                why=wanted.why,
            )
        return _told(keeper, made)


def _add_taking_back(app: FastAPI, keeper: Keeper, authorize: Authorize) -> None:
    @app.post("/v1/rights/bindings/{binding_id}/end", summary="Let a contract end")
    def end(binding_id: str, wanted: Ending, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        with refusals():
            until_ns = _ns(wanted.until)
            made = rights.end_binding(keeper.store, binding_id, until_ns=until_ns, by=wanted.by, why=wanted.why)
        return _told(keeper, made)

    @app.post("/v1/rights/grants/{grant_id}/revoke", summary="Take a grant back from now on")
    def revoke(grant_id: str, wanted: Signed, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        with refusals():
            made = rights.revoke(keeper.store, grant_id, by=wanted.by, why=wanted.why)
        return _told(keeper, made)

    @app.post("/v1/rights/denials/{denial_id}/lift", summary="Take a denial back from now on")
    def lift(denial_id: str, wanted: Signed, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        with refusals():
            made = rights.lift(keeper.store, denial_id, by=wanted.by, why=wanted.why)
        return _told(keeper, made)


def _told(keeper: Keeper, made: msgspec.Struct) -> dict[str, Any]:
    """Let the keeper look at once, and return what was made."""
    keeper.refresh()
    found: dict[str, Any] = msgspec.to_builtins(made)
    return found


def _built(rows: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.to_builtins(list(rows))
    return found


def _ns(moment: datetime | None) -> int:
    """Return nanoseconds since 1970; a time without a zone is UTC; None is now."""
    if moment is None:
        return time.time_ns()
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * 10**6) * 1000
