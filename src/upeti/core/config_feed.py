"""Settings of the feed. A part of ``core.config``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from upeti.core.config_types import Name, Port, RouteName, Secret


class FeedEnrichment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[feed.enrichment]`: how `upeti feed enrich` asks models about items, as a client of the gateway. See
    [worth](feed-worth.md).
    """

    url: Annotated[
        str,
        Meta(description="Base URL of the gateway, with `/v1`. Empty: the gateway of this configuration."),
    ] = ""
    key: Secret | None = None
    route: Annotated[
        RouteName,
        Meta(
            description="The model name that it sends. Make a route of this name: its candidates say whether a paid model or "
            "one of your own answers."
        ),
    ] = "feed-enrichment"
    student_channels: Annotated[
        tuple[Name, ...],
        Meta(
            description="Channels that are models of your own: what they answer is a student's, in experiments too. Channels "
            "of kind `embedded` always are."
        ),
    ] = ()
    items_per_call: Annotated[
        int, Meta(ge=1, le=64, description="Items asked about in one call; the instructions are paid for once a call.")
    ] = 8
    calls_at_once: Annotated[
        int, Meta(ge=1, le=64, description="Calls under way: what a kill can cost without its result.")
    ] = 4


class Feed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[feed]`: a personal feed of your items, beside the gateway (`pip install 'upeti[feed]'`). See [feed](feed.md)."""

    enabled: Annotated[
        bool, Meta(description="`upeti serve` starts the feed service too. `upeti feed serve` starts it alone.")
    ] = False
    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port to listen on; 0 lets the system choose one.")] = 8082
    url: Annotated[
        str,
        Meta(
            description="`postgresql://USER@HOST:PORT/DATABASE` for items, users and feedback. Empty: SQLite in `data_dir`. One "
            "service at a time writes it."
        ),
    ] = ""
    diversity: Annotated[
        float, Meta(ge=0, le=1, description="How much unlike things are preferred: 0 is the plain ranking.")
    ] = 0.1
    per_creator_max: Annotated[
        int, Meta(ge=1, description="Items of one creator in one answer, where there are others.")
    ] = 3
    explore_share: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Probability with which the fifth place, and every tenth after it, goes to an item that few have seen.",
        ),
    ] = 0.1
    safe_only: Annotated[
        bool, Meta(description="Show only what a safety label calls safe; what has no label is not shown.")
    ] = False
    refit_minutes: Annotated[
        int,
        Meta(
            ge=0,
            description="How often a new ranker is trained and put before the gate; 0: only by `upeti feed refit`.",
        ),
    ] = 60
    embed: Annotated[
        bool, Meta(description="Embed items with the packaged MiniLM, on this machine, where no enrichment has.")
    ] = True
    enrichment: FeedEnrichment = msgspec.field(default_factory=FeedEnrichment)
