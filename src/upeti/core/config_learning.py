"""Settings of own models. A part of ``core.config``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from upeti.core.config_types import Name


class LearningStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[learning.step]]`: what has to be there before a rule promotes a student out of a stage, in place of
    [what is shipped](own-models.md#stages).
    """

    out_of: Annotated[
        Literal["shadow", "canary_1", "canary_10", "canary_50"], Meta(description="The stage that it is in.")
    ]
    audits: Annotated[int, Meta(ge=0, description="Answers that were audited in this stage.")]
    hours: Annotated[float, Meta(ge=0, description="Hours in this stage.")]
    bound: Annotated[
        bool, Meta(description="Whether the upper bound of the present risk must be below what was promised.")
    ] = True


class Learning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[learning]`: how [own models](own-models.md) answer calls (`pip install 'upeti[learning]'`). With a channel of kind
    `student`, `upeti serve` starts the process that serves them.
    """

    enabled: Annotated[
        bool, Meta(description="Whether own models are asked at all. `false` stops all of them at once.")
    ] = True
    answer_within_ms: Annotated[
        int,
        Meta(
            ge=20,
            le=60_000,
            description="An own model that has not answered within this is passed over: the call goes to the next candidate. It "
            "is looked at ten times a second.",
        ),
    ] = 500
    batch_max: Annotated[int, Meta(ge=1, le=1024, description="Calls that are predicted together at most.")] = 16
    batch_wait_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=100,
            description="How long a call waits for others to be predicted with it. 0: not at all; while others are predicted it "
            "waits anyway.",
        ),
    ] = 0
    queue_max: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Calls that may wait for a prediction. Others go to the next candidate."),
    ] = 512
    threads: Annotated[
        int, Meta(ge=1, le=64, description="Threads that predict. The libraries themselves use one each.")
    ] = 1
    ray: Annotated[
        str,
        Meta(
            description="Where students are trained: nothing for a process of this machine, `local` for a Ray of this machine, "
            "or a Ray cluster's address (`ray://head:10001`, `auto`). The extra `ray`; a cluster needs the same Upeti."
        ),
    ] = ""
    retrain_hours: Annotated[
        int,
        Meta(
            ge=0,
            le=8784,
            description="How often the keeper runs the [learning cycle](own-models.md) of every declared task that has no "
            "schedule of its own. 0: never by itself.",
        ),
    ] = 0
    promote: Annotated[
        Literal["by_rule", "by_hand"],
        Meta(
            description="Who lets a certified student into its next stage: a rule, once audits and time are there, or people "
            "alone."
        ),
    ] = "by_rule"
    step: Annotated[
        tuple[LearningStep, ...], Meta(description="Other numbers for the rule that promotes, by stage.")
    ] = ()
    lapse_days: Annotated[
        int,
        Meta(
            ge=1,
            le=366,
            description="A certificate lapses when none of its student's answers was audited for so many days: it then answers "
            "nothing.",
        ),
    ] = 7
    audit_tenant: Annotated[
        Name, Meta(description="Tenant that audits are called and billed as; their feature is `audit`.")
    ] = "audit"
