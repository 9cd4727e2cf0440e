"""The configuration file, as types: what they describe here is what the reference in docs/ says.

``Config`` mirrors ``upeti.toml`` one to one. Reading the file, finding line numbers and checking that
names fit together is ``control/config_file``; this module holds no input or output.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from upeti.core.config_feed import Feed as Feed
from upeti.core.config_feed import FeedEnrichment as FeedEnrichment
from upeti.core.config_learning import Learning as Learning
from upeti.core.config_rights import Capture as Capture
from upeti.core.config_rights import Conduct as Conduct
from upeti.core.config_rights import Contract as Contract
from upeti.core.config_rights import DataPolicy as DataPolicy
from upeti.core.config_rights import Drill as Drill
from upeti.core.config_rights import RedactionRule as RedactionRule
from upeti.core.config_rights import Rights as Rights
from upeti.core.config_types import FeatureName as FeatureName
from upeti.core.config_types import Milliseconds as Milliseconds
from upeti.core.config_types import Name as Name
from upeti.core.config_types import Port as Port
from upeti.core.config_types import RouteName as RouteName
from upeti.core.config_types import Secret as Secret


class Gateway(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[gateway]`: the port that applications talk to, and its limits."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port to listen on; 0 lets the system choose one.")] = 8080
    workers: Annotated[
        int, Meta(ge=1, le=256, description="Worker processes that share the port (SO_REUSEPORT). One per core.")
    ] = 1
    tls_certificate: Annotated[str, Meta(description="PEM file; with `tls_key` it turns TLS on.")] = ""
    tls_key: Annotated[str, Meta(description="PEM file of the certificate's private key.")] = ""
    default_channel: Annotated[
        str,
        Meta(
            description="Channel for paths that name no model (`/v1/files`, `/v1/batches`, …). "
            "Empty: the first candidate's channel of the first route."
        ),
    ] = ""
    client_left: Annotated[
        Literal["drain", "cancel"],
        Meta(
            description="What happens to an attempt whose client has gone: `drain` reads the answer to its end, so "
            "the cost is exact; `cancel` cuts it, and it is posted at its bound as estimated."
        ),
    ] = "drain"
    header_bytes_max: Annotated[int, Meta(ge=1024, description="Longest request head; longer is answered 431.")] = (
        65_536
    )
    body_bytes_max: Annotated[
        int, Meta(ge=1024, description="Longest request body; longer is answered 413. OpenAI takes 50 MB of images.")
    ] = 67_108_864
    answer_bytes_max: Annotated[
        int, Meta(ge=1024, description="Longest plain JSON answer that is held back until it is settled.")
    ] = 67_108_864
    header_timeout_ms: Annotated[
        Milliseconds, Meta(description="A client must send a whole request within this time once it began one.")
    ] = 30_000
    idle_timeout_ms: Annotated[
        Milliseconds, Meta(description="A quiet keep-alive connection is closed after this time.")
    ] = 120_000
    connections_max: Annotated[int, Meta(ge=1, description="Client connections per worker; more are answered 503.")] = (
        10_000
    )
    calls_max: Annotated[int, Meta(ge=1, description="Calls in flight per worker; more are answered 503.")] = 8_000
    drain_timeout_ms: Annotated[
        Milliseconds, Meta(description="How long a stopping worker waits for the calls in flight.")
    ] = 60_000


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[control]`: the keeper's port (health, metrics, control API). Keep it on loopback."""

    host: Annotated[str, Meta(description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port to listen on; 0 lets the system choose one.")] = 8081


class Journal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[journal]`: how durable a call's record is before the call goes on."""

    durability: Annotated[
        Literal["process", "power"],
        Meta(
            description="`process`: records survive the death of the process (kill -9). `power`: they are on the disk "
            "(fsync) before the attempt is dispatched and before the client gets the last byte."
        ),
    ] = "process"
    segment_bytes: Annotated[
        int, Meta(ge=65_536, description="A segment file is closed and a new one begun past this size.")
    ] = 67_108_864
    segment_seconds: Annotated[
        int, Meta(ge=1, description="… or past this age, so that closed segments can be turned into Parquet.")
    ] = 300


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[state]`: where keys, budgets, leases and the books are kept; in PostgreSQL several nodes share them."""

    url: Annotated[
        str,
        Meta(
            description="`postgresql://USER@HOST:PORT/DATABASE` (`pip install 'upeti[postgres]'`). Empty: SQLite in "
            "`data_dir`, for one node. What it leaves out comes from PostgreSQL's own variables (`PGHOST`, `PGPASSWORD`, …)."
        ),
    ] = ""
    password: Secret | None = None


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[node]`: this machine among those that share a state."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.:/-]{0,128}$",
            description="Its name. Empty: the host's name when the data directory was made; it is kept there.",
        ),
    ] = ""


class Money(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[money]`: prices, and what happens without one."""

    unpriced: Annotated[
        Literal["refuse", "record"],
        Meta(
            description="A call whose price is not in the book is refused, or served and recorded as *unpriced*. "
            "It never counts as zero. A key with a limit always refuses."
        ),
    ] = "refuse"
    price_files: Annotated[
        tuple[str, ...], Meta(description="Price files of your own, read after the shipped book; a later row wins.")
    ] = ()
    rates_file: Annotated[str, Meta(description="Dated exchange rates for showing a bill in another currency.")] = ""
    tenants_file: Annotated[
        str, Meta(description="Tenants, issuers and terms of sale, for invoices: see [invoices](invoices.md).")
    ] = ""
    output_tokens_default: Annotated[
        int,
        Meta(
            ge=1,
            description="Output cap put into a call that names none, where the model's own maximum is not known: "
            "without a cap a call has no bound.",
        ),
    ] = 4096


class Telemetry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[telemetry]`: spans and metrics of settled attempts over OTLP, from the journal (`pip install upeti[telemetry]`)."""

    otlp_endpoint: Annotated[
        str,
        Meta(
            description="Base URL of an OpenTelemetry collector that takes OTLP over HTTP, such as "
            "`http://127.0.0.1:4318`. Empty: nothing is sent."
        ),
    ] = ""
    headers: Annotated[
        dict[str, Secret],
        Meta(description="Headers sent with it: name → where the value is found (`env:`, `file:`, `stored:`)."),
    ] = msgspec.field(default_factory=dict)
    semconv: Annotated[
        Literal["1.36", "1.37", "1.41"],
        Meta(
            description="Whose names are used: `1.36` says `gen_ai.system`; `1.37` `gen_ai.provider.name`; `1.41` adds "
            "cached and reasoning tokens."
        ),
    ] = "1.41"
    service_name: Annotated[str, Meta(min_length=1, description="`service.name` of all that is sent.")] = "upeti"
    sample_share: Annotated[
        float, Meta(ge=0, le=1, description="Share of calls whose attempts are sent as spans. Metrics count all.")
    ] = 1.0
    temporality: Annotated[
        Literal["cumulative", "delta"],
        Meta(description="Whether metrics are totals since the start or what came since the last time."),
    ] = "cumulative"


class Channel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[channel]]`: one contract party, account and endpoint through which models are reached."""

    name: Annotated[Name, Meta(description="Name of the channel, used by routes, bills and prices.")]
    kind: Annotated[
        Literal["openai_compatible", "azure", "anthropic", "embedded", "student"],
        Meta(
            description="The provider's way of addressing and authenticating. `student`: your [own models](own-models.md), which "
            "answer what they are sure of."
        ),
    ]
    base_url: Annotated[
        str,
        Meta(
            description="`https://api.openai.com/v1`, `https://NAME.openai.azure.com`, `https://api.anthropic.com`. "
            "Empty: OpenAI's or Anthropic's own; Azure needs one; `embedded` and `student` have one by themselves."
        ),
    ] = ""
    model_file: Annotated[
        str,
        Meta(
            description="`embedded`: the `.gguf` file that it serves, such as one [of your own](own-models-larger.md); a path "
            "relative to this file. Empty: the packaged model."
        ),
    ] = ""
    api_key: Secret | None = None
    prices: Annotated[
        str,
        Meta(
            description="Which part of the price book applies: `openai`, `azure`, `anthropic`, `local`, or one of your own."
        ),
    ] = ""
    zone: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9_]{0,64}$",
            description="Where its deployments compute, for providers that charge for that: `data_zone_eu`, "
            "`data_zone_us`, `data_zone_apac`, `regional_…`, as the price book names them. Empty: anywhere (Azure's Global).",
        ),
    ] = ""
    tier: Annotated[
        Literal["", "priority", "flex", "us", "provisioned"],
        Meta(
            description="Service tier of calls that ask for none: what the provider's own project or deployment is set "
            "to; `us` for an Anthropic workspace whose inference stays in the US; `provisioned` for Azure's provisioned "
            "throughput, paid by the hour. Empty: the standard one."
        ),
    ] = ""
    api_version: Annotated[
        str, Meta(description="Azure's `api-version`. Empty: Azure's `/openai/v1/` paths, which need none.")
    ] = ""
    deployments: Annotated[
        dict[str, str], Meta(description="Azure: model name → deployment name, where they differ.")
    ] = msgspec.field(default_factory=dict)
    entra: Annotated[
        bool,
        Meta(
            description="Azure: a bearer token of Microsoft Entra (`pip install upeti[azure]`) in place of `api_key`."
        ),
    ] = False
    organization: Annotated[str, Meta(description="Sent as `OpenAI-Organization`.")] = ""
    project: Annotated[str, Meta(description="Sent as `OpenAI-Project`.")] = ""
    account: Annotated[
        str,
        Meta(
            description="The account's name on the provider's bill, for `upeti reconcile`: an Azure subscription's id or a "
            "resource's name, an OpenAI project's or API key's id, an Anthropic workspace's or API key's id (`default` for the "
            "default workspace)."
        ),
    ] = ""
    region: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.-]{0,64}$",
            description="Where the provider computes and keeps data, by a name of your own such as `eu`, for `[[data_policy]]`. "
            "Empty: not known.",
        ),
    ] = ""
    retention_days: (
        Annotated[
            int,
            Meta(
                ge=0, description="How long the provider keeps prompts and answers; 0: not at all. Left out: not known."
            ),
        ]
        | None
    ) = None
    signals_of: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9.-]{0,253}$",
            description="Host whose errors the endpoint gives, such as `api.openai.com`, where `base_url` is a proxy before it "
            "([signals](cut-off.md)). Empty: the one in `base_url`.",
        ),
    ] = ""
    ca_file: Annotated[
        str, Meta(description="PEM file of the authority that signed the endpoint's certificate, if not a public one.")
    ] = ""
    connect_timeout_ms: Annotated[Milliseconds, Meta(description="Time to a connection, TLS included.")] = 5_000
    connections_max: Annotated[int, Meta(ge=1, description="Connections per worker to this endpoint.")] = 10_000
    keepalive_idle_ms: Annotated[
        Milliseconds, Meta(description="An idle connection is closed after this time: below the provider's own time.")
    ] = 30_000
    breaker_failures: Annotated[
        int, Meta(ge=1, description="Failures in a row after which the channel is left out for a while.")
    ] = 5
    breaker_pause_ms: Annotated[
        Milliseconds, Meta(description="How long it is left out before one call tries it again.")
    ] = 10_000


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[route.candidate]]`: one way to answer a route's calls."""

    channel: Annotated[Name, Meta(description="Name of a channel.")]
    model: Annotated[str, Meta(description="The provider's model name. Empty or `*`: the name the client sent.")] = ""
    order: (
        Annotated[int, Meta(ge=0, description="Lower is tried first. Left out: the candidate's place in the file.")]
        | None
    ) = None
    weight: Annotated[
        int, Meta(ge=0, description="Share among candidates of the same order; 0 only takes failovers.")
    ] = 1
    output_tokens_max: Annotated[int, Meta(ge=1, description="Output cap put into calls that name none.")] | None = None
    context_tokens: (
        Annotated[
            int,
            Meta(
                ge=1,
                description="The model's context window: the bound of input that cannot be counted in bytes (images, files).",
            ),
        ]
        | None
    ) = None


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[route]]`: a public model name and the candidates behind it. `*` takes every name without a route."""

    name: Annotated[RouteName, Meta(description="The model name that clients send.")]
    candidate: Annotated[tuple[Candidate, ...], Meta(min_length=1, description="In the order in which they are tried.")]
    deadline_ms: Annotated[
        Milliseconds, Meta(description="A call must have begun to answer within this time, over all its attempts.")
    ] = 600_000
    attempt_timeout_ms: Annotated[
        Milliseconds, Meta(description="Time to the first byte of one attempt; then the next candidate.")
    ] = 600_000
    stream_idle_ms: Annotated[
        Milliseconds, Meta(description="Longest silence within an answer before it counts as cut.")
    ] = 120_000
    attempts_max: Annotated[int, Meta(ge=1, le=16, description="Attempts of one call over all candidates.")] = 4
    throttle_wait_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=600_000,
            description="A provider that says 429 and to come again within this time is waited for, once, within the deadline. "
            "Longer: the next candidate at once, or the 429 goes back to the client.",
        ),
    ] = 500
    function: Annotated[
        str,
        Meta(
            max_length=256,
            description="Which function of the business the route is for, as your register of information names it; for "
            "[drills](drill.md) and the [exit plan](exit-plan.md).",
        ),
    ] = ""
    critical: (
        Annotated[
            bool, Meta(description="Whether that function is critical or important (DORA). Left out: not assessed.")
        ]
        | None
    ) = None
    content_failover: Annotated[
        bool,
        Meta(
            description="Whether a call that a provider's content filter refused is sent to the next candidate. Off: the refusal "
            "goes back to the client, so that no other account is burnt by it."
        ),
    ] = False


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[key]]`: a client key kept in the file. `upeti keys create` makes keys without editing it."""

    id: Annotated[Name, Meta(description="Public id, shown in bills.")]
    tenant: Annotated[Name, Meta(description="Who pays.")]
    project: Annotated[str, Meta(description="A part of the tenant.")] = ""
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key, in hex.")] = ""
    secret: Secret | None = None
    limit: Annotated[
        str, Meta(description="What the key may spend in all, in USD, as a decimal string. Empty: no limit.")
    ] = ""
    routes: Annotated[tuple[str, ...], Meta(description="Routes the key may use. Empty: all.")] = ()
    feature: Annotated[str, Meta(description="Feature of calls that carry no tag.")] = ""


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[budget]]`: a limit on what calls may cost. It holds for every call that has all of `tenant`, `project`, `key` and
    `feature` that are given here; with none of them, for all calls. `upeti budget set` makes budgets without editing the
    file.
    """

    name: Annotated[Name, Meta(description="Name of the budget, shown in refusals and alerts.")]
    limit: Annotated[str, Meta(description="What may be spent in each window, as a decimal string.")]
    currency: Annotated[
        str,
        Meta(
            pattern=r"^[A-Z]{3}$",
            description="Currency of the limit. A call whose price is in another one is refused (`hard`) or not counted "
            "(`soft`): amounts of two currencies are never compared.",
        ),
    ] = "USD"
    window: Annotated[
        Literal["total", "month", "week", "day"],
        Meta(description="How long the limit is for; each window begins with all of it. A week begins on Monday."),
    ] = "total"
    zone: Annotated[str, Meta(description="Time zone in which windows begin, such as `Asia/Jakarta`.")] = "UTC"
    mode: Annotated[
        Literal["hard", "soft"],
        Meta(description="`hard` refuses what would overspend; `soft` only counts and alerts."),
    ] = "hard"
    alert_shares: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=1000)], ...],
        Meta(description="Percent of the limit; when so much is spent, once in a window, an alert is given."),
    ] = (50, 80, 100)
    tenant: Annotated[Name, Meta(description="Only calls of this tenant.")] | None = None
    project: Annotated[Name, Meta(description="Only calls of keys with this project.")] | None = None
    key: Annotated[Name, Meta(description="Only calls with the key of this id.")] | None = None
    feature: Annotated[FeatureName, Meta(description="Only calls for this feature.")] | None = None


class RateLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[rate_limit]]`: how many calls and tokens a minute, over all workers. Selectors are those of a budget."""

    name: Annotated[Name, Meta(description="Name of the limit, shown in refusals.")]
    calls_per_minute: (
        Annotated[int, Meta(ge=1, description="Calls that may begin in each minute of the clock.")] | None
    ) = None
    tokens_per_minute: (
        Annotated[
            int,
            Meta(
                ge=1,
                description="Tokens, input and output together. As many as a call can take are held while it runs, so a "
                "call that can take more than this is refused.",
            ),
        ]
        | None
    ) = None
    tenant: Annotated[Name, Meta(description="Only calls of this tenant.")] | None = None
    project: Annotated[Name, Meta(description="Only calls of keys with this project.")] | None = None
    key: Annotated[Name, Meta(description="Only calls with the key of this id.")] | None = None
    feature: Annotated[FeatureName, Meta(description="Only calls for this feature.")] | None = None


class Alerts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[alerts]`: where it is told, besides the log, that a share of a budget is spent or that a budget was frozen."""

    webhook: Annotated[
        str, Meta(description="An address that takes each alert as JSON by POST; it is tried until it answers 2xx.")
    ] = ""
    secret: Secret | None = None


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`upeti.toml`."""

    data_dir: Annotated[
        str, Meta(description="Where the journal, the state and the events are kept. Relative to the file.")
    ] = "upeti-data"
    gateway: Gateway = msgspec.field(default_factory=Gateway)
    control: Control = msgspec.field(default_factory=Control)
    journal: Journal = msgspec.field(default_factory=Journal)
    state: State = msgspec.field(default_factory=State)
    node: Node = msgspec.field(default_factory=Node)
    money: Money = msgspec.field(default_factory=Money)
    telemetry: Telemetry = msgspec.field(default_factory=Telemetry)
    channel: tuple[Channel, ...] = ()
    rights: Rights = msgspec.field(default_factory=Rights)
    contract: tuple[Contract, ...] = ()
    route: tuple[Route, ...] = ()
    key: tuple[Key, ...] = ()
    budget: tuple[Budget, ...] = ()
    rate_limit: tuple[RateLimit, ...] = ()
    data_policy: tuple[DataPolicy, ...] = ()
    alerts: Alerts = msgspec.field(default_factory=Alerts)
    conduct: Conduct = msgspec.field(default_factory=Conduct)
    drill: Drill = msgspec.field(default_factory=Drill)
    capture: Capture = msgspec.field(default_factory=Capture)
    feed: Feed = msgspec.field(default_factory=Feed)
    learning: Learning = msgspec.field(default_factory=Learning)
