"""Settings of rights and survival: contracts, data policies, drills, capture, conduct. A part of ``core.config``."""

from __future__ import annotations

import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from upeti.core.config_types import FeatureName, Name


class Rights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[rights]`: contracts and their clauses, besides those that ship."""

    terms_files: Annotated[
        tuple[str, ...],
        Meta(description="Files of terms of your own: your contracts, your rules. See [rights](rights.md)."),
    ] = ()


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[contract]]`: under which contract version a channel's account is. `upeti rights bind` says so without editing the
    file. Without one nothing but serving is allowed.
    """

    channel: Annotated[Name, Meta(description="Name of a channel.")]
    contract: Annotated[Name, Meta(description="Id of the version, as `upeti rights contracts` lists them.")]
    effective: Annotated[datetime.date, Meta(description="First day, UTC.")] = msgspec.field(name="from")
    until: (
        Annotated[
            datetime.date, Meta(description="Day on which it holds no more, UTC. The channel then serves nothing.")
        ]
        | None
    ) = None
    order_form: Annotated[
        str,
        Meta(
            description="The signed order form, if there is one: later updates of the published terms do not change it."
        ),
    ] = ""


class Drill(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[drill]`: [drills](drill.md) of a cut-off, and the [exit plan](exit-plan.md)."""

    abort_below_percent: Annotated[
        int,
        Meta(
            ge=0,
            le=100,
            description="A live drill is ended at once when fewer of its calls survive, once 20 of them have come to an end.",
        ),
    ] = 90
    overdue_days: Annotated[
        int, Meta(ge=1, description="`upeti exit-plan` warns of a route whose last drill is older than this.")
    ] = 365


class DataPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[data_policy]]`: where calls may go, at the first choice and at failover. It holds for every call that has all of
    `tenant`, `project`, `key` and `feature` that are given here; of several policies all hold. See [cut-off](cut-off.md).
    """

    name: Annotated[Name, Meta(description="Name of the policy, shown in refusals.")]
    regions: Annotated[
        tuple[Name, ...],
        Meta(description="Only channels with one of these regions; one whose region is not known is none of them."),
    ] = ()
    retention_days_max: (
        Annotated[int, Meta(ge=0, description="Only channels that are known to keep data no longer than this.")] | None
    ) = None
    channels_denied: Annotated[tuple[Name, ...], Meta(description="None of these channels.")] = ()
    tenant: Annotated[Name, Meta(description="Only calls of this tenant.")] | None = None
    project: Annotated[Name, Meta(description="Only calls of keys with this project.")] | None = None
    key: Annotated[Name, Meta(description="Only calls with the key of this id.")] | None = None
    feature: Annotated[FeatureName, Meta(description="Only calls for this feature.")] | None = None


class Conduct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[conduct]`: whether tenants harvest answers to train a rival; cases, throttles and appeals: see [conduct](conduct.md)."""

    enabled: Annotated[
        bool,
        Meta(
            description="Look at tenants' calls (`pip install 'upeti[conduct]'`). Vectors and counts are kept, no texts. Tell "
            "your tenants that you do."
        ),
    ] = False
    appeal_contact: Annotated[
        str,
        Meta(
            description="Where a suspended tenant appeals: an address that a person reads. Without it nobody can be suspended."
        ),
    ] = ""
    appeal_days: Annotated[
        int,
        Meta(
            ge=1,
            le=90,
            description="An appeal that is not decided in so many days lapses: the tenant is served, throttled.",
        ),
    ] = 7
    throttle_calls_per_minute: Annotated[
        int, Meta(ge=1, description="Calls a minute of a tenant that a case throttles.")
    ] = 60
    thresholds_file: Annotated[
        str,
        Meta(
            description="When a look counts as evidence, in place of what is shipped: a copy of "
            "`upeti/rights/conduct/thresholds.toml` with your changes."
        ),
    ] = ""
    throttle_days: Annotated[
        int, Meta(ge=1, le=90, description="A throttle by rule ends by itself after so many days; a person's does not.")
    ] = 14


class RedactionRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[capture.rule]]`: something more that is taken out of a body before it is stored."""

    kind: Annotated[
        str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$", description="What it is; the placeholder is `[KIND_1]`.")
    ]
    pattern: Annotated[
        str, Meta(min_length=1, description="A regular expression (Python's), looked for in every text.")
    ]


class Capture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[capture]`: questions and answers kept for evaluation and training. Nothing is kept unless this is on, the tenant has
    consented (`upeti capture consent`) and the contract permits it. See [capture](capture.md).
    """

    enabled: Annotated[bool, Meta(description="Whether anything is kept at all.")] = False
    retention_days: Annotated[
        int, Meta(ge=1, le=3650, description="Bodies are erased when they are so many days old.")
    ] = 90
    body_bytes_max: Annotated[
        int, Meta(ge=1024, description="A pair whose question or answer is longer is not kept.")
    ] = 1_048_576
    url: Annotated[
        str,
        Meta(
            description="Where bodies are kept: `s3://BUCKET/PREFIX` or any address that fsspec knows "
            "(`pip install 'upeti[s3]'`). Empty: in `data_dir/bodies`."
        ),
    ] = ""
    names: Annotated[
        bool,
        Meta(
            description="Look for names and places too, with presidio-analyzer (`pip install 'upeti[presidio]'`) and "
            "the spaCy model that `names_model` says."
        ),
    ] = False
    names_model: Annotated[str, Meta(description="A spaCy model that is installed here.")] = "en_core_web_sm"
    rule: tuple[RedactionRule, ...] = ()
