"""The control API's part for capture: consent, what is kept, erasure, each with a name and a reason.

Texts of kept bodies are not shown here: who reads them does it on the machine that has them.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, HTTPException, Query
from pydantic import Field

from upeti.control import consents, pairs
from upeti.control.api_parts import Authorize, Bearer, Keeper, Signed, document_in, refusals, shown
from upeti.journal.bodies import bodies_at

_LISTED_MAX = 1_000


class NewConsent(Signed):
    """A tenant's consent, in place of what it said before."""

    tenant: str
    purposes: list[str] = Field([], description="What its pairs may be used for, besides being kept.")
    features: list[str] = Field([], description="Only calls for these features. Empty: all.")
    evidence: str = Field(description="The document in which the tenant consents, base64.")
    evidence_name: str = "evidence"


class Erasure(Signed):
    """What to erase: a tenant's pairs, those of one of its end users, or one pair."""

    tenant: str = ""
    user: str = ""
    pair: str = ""


def add_capture(app: FastAPI, keeper: Keeper, authorize: Authorize) -> None:
    """Add the routes below ``/v1/capture``."""

    @app.get("/v1/capture", summary="Who has consented, how much is kept, what was left out")
    def show_capture(credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        return {
            "enabled": keeper.config.capture.enabled,
            "consents": [msgspec.to_builtins(one) for one in consents.all_consents(keeper.store)],
            "kept": [msgspec.to_builtins(one) for one in pairs.counts(keeper.store)],
            "left_out": pairs.left_out_counts(keeper.store),
        }

    @app.post("/v1/capture/consents", status_code=201, summary="Record a tenant's consent")
    def give_consent(wanted: NewConsent, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        with refusals():
            made = consents.give(
                keeper.store,
                wanted.tenant,
                purposes=tuple(wanted.purposes),
                features=tuple(wanted.features),
                evidence=document_in(wanted.evidence_name, wanted.evidence),
                by=wanted.by,
                why=wanted.why,
            )
        keeper.refresh()
        return shown(made)

    @app.post("/v1/capture/consents/{tenant:path}/withdraw", summary="End a tenant's consent")
    def withdraw_consent(tenant: str, signed: Signed, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        with refusals():
            ended = consents.withdraw(keeper.store, tenant, by=signed.by, why=signed.why)
        keeper.refresh()
        return shown(ended)

    @app.get("/v1/capture/pairs", summary="Kept pairs, oldest first; no texts")
    def list_pairs(
        credentials: Bearer,
        tenant: str = "",
        task: str = "",
        feature: str = "",
        channel: str = "",
        limit: Annotated[int, Query(ge=1, le=_LISTED_MAX)] = 100,
    ) -> list[dict[str, Any]]:
        authorize(credentials)
        found = pairs.find(keeper.store, tenant=tenant, task=task, feature=feature, channel=channel)
        return [shown(one) for one in islice(found, limit)]

    @app.post("/v1/capture/erase", summary="Erase bodies and the link to the person, for good")
    def erase(wanted: Erasure, credentials: Bearer) -> dict[str, Any]:
        authorize(credentials)
        if wanted.user and not wanted.tenant:
            raise HTTPException(422, "`user` needs `tenant`: two tenants may have users of the same name")
        bodies = bodies_at(keeper.store.data_dir, keeper.config.capture.url)
        with refusals():
            erased = pairs.erase(
                keeper.store,
                bodies,
                tenant=wanted.tenant,
                user=wanted.user,
                pair_id=wanted.pair,
                by=wanted.by,
                why=wanted.why,
            )
        return shown(erased)
