"""A call: one client request, understood. Everything the plan, the bound and the record need of it.

One object per call, filled in order: what came off the connection, who calls, what is asked for, where it may go.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from upeti.core.errors import BadRequest
from upeti.gateway.fiber import Fiber
from upeti.gateway.live import Lane, LiveView, Tariff, Way
from upeti.gateway.paths import Target
from upeti.gateway.snapshot import Caller
from upeti.money.price import bound_of
from upeti.wire.body import (
    BodyFields,
    choices_of,
    decode_fields,
    edit,
    has_hosted_tools,
    has_input_elsewhere,
    metadata_tags,
)
from upeti.wire.tiers import AUTO, asked_tier
from upeti.wire.wires import MESSAGES, OTHER, RESPONSES

if TYPE_CHECKING:
    from upeti.gateway.gateway import Gateway
    from upeti.gateway.server import ClientConnection

_TAG = re.compile(r"[A-Za-z0-9_.:/@ -]{1,128}")
_MULTIPART_MODEL = re.compile(rb'(name="model"(?:\r\n[^\r\n]+)*\r\n\r\n)([^\r\n]{1,256})(\r\n)')
_NO_FIELDS = BodyFields()
_TOKENS_MAX = 1 << 53  # larger numbers are not exact in JSON; nobody generates that much
_CHOICES_MAX = 4096  # OpenAI takes 128 choices and lists of 2,048 prompts


class Call:
    """One client request on its way. Fields are set in the order in which they stand here."""

    __slots__ = (  # noqa: RUF023 - in the order in which they are set
        # as it came off the connection
        "method",
        "url",
        "headers",  # names in lower case
        "body",
        "keep_alive",
        "http_1_0",
        "received_s",  # loop time
        # where it is served
        "client",
        "gateway",
        "fiber",
        "view",
        "number",
        "id",  # what the client sees as x-request-id
        # who calls, and what is asked for
        "caller",
        "target",
        "fields",
        "is_json",
        "model",
        "stream",
        "cap",  # output tokens per choice that the client allows, None when it does not say
        "choices",
        "tier",  # the service tier that is asked for, None when the client does not say
        "feature",
        "task",
        "way",
        # how far it is
        "attempts",
        "deadline_s",
    )

    method: bytes
    url: bytes
    client: ClientConnection
    gateway: Gateway
    fiber: Fiber
    view: LiveView
    number: int
    id: str
    caller: Caller | None
    target: Target
    fields: BodyFields
    is_json: bool
    model: str
    stream: bool
    cap: int | None
    choices: int
    tier: str | None
    feature: str
    task: str
    way: Way
    attempts: int
    deadline_s: float

    def __init__(
        self,
        method: bytes,
        url: bytes,
        headers: dict[bytes, bytes],
        body: bytes,
        keep_alive: bool,
        http_1_0: bool,
        received_s: float,
    ) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive
        self.http_1_0 = http_1_0
        self.received_s = received_s
        self.caller = None
        self.attempts = 0

    def understand(self, target: Target, now_ns: int) -> None:
        """Find out who calls and what for.

        Raises ``Unauthenticated``, ``BadRequest``, ``NotFound`` (no such model here), ``Forbidden`` (not for this key).
        """
        headers = self.headers
        view = self.view
        self.target = target
        self.feature = self.task = ""
        self.caller = caller = view.caller(headers, now_ns)
        wire = target.wire
        if wire is OTHER:
            fields = self._read_other()
        else:
            self.is_json = True
            content_type = headers.get(b"content-type", b"application/json")
            if not content_type.startswith(b"application/json") and content_type[:16].lower() != b"application/json":
                raise BadRequest("invalid_content_type", "Send the body as `Content-Type: application/json`.")
            fields = decode_fields(self.body)
            self.model = fields.model or target.model
            if not self.model and wire is not RESPONSES:  # there a stored prompt may name it
                raise BadRequest("missing_model", "The body names no model: add `model`.", param="model")
        self.fields = fields
        self.way = view.way(caller, target, self.model)
        self.stream = fields.stream is True
        cap: int | None = None
        for name in wire.cap_fields:  # another API's name of it may be passed over by the provider
            given = getattr(fields, name)
            if given is not None and (cap is None or given > cap):
                cap = given
        self.cap = cap
        self.choices = 1
        if fields.n is not None or fields.best_of is not None or fields.prompt is not None:
            self.choices = choices_of(fields)
        if not 0 < self.choices <= _CHOICES_MAX or (cap is not None and not 0 <= cap <= _TOKENS_MAX):
            raise BadRequest("invalid_value", "`n` or the output cap is out of range: no provider takes that.")
        self.tier = None
        if fields.service_tier is not None or fields.speed is not None or fields.inference_geo is not None:
            self.tier = asked_tier(fields.service_tier, fields.speed, fields.inference_geo)
        if self.tier is None and wire is MESSAGES:
            self.tier = AUTO  # "service_tier: defaults to auto", Anthropic API reference, messages
        self.feature = caller.feature
        if b"x-upeti-feature" in headers or b"x-upeti-task" in headers or fields.metadata is not None:
            self._read_tags(caller)
        if view.policy_features and self.feature in view.policy_features:
            self.way = view.way(caller, target, self.model, self.feature)

    def _read_other(self) -> BodyFields:
        """A relayed API of which little is known: its model, if it names one, in JSON or in a form."""
        content_type = self.headers.get(b"content-type", b"").lower()
        self.is_json = content_type.startswith(b"application/json") and bool(self.body)
        fields = _NO_FIELDS
        self.model = ""
        if self.is_json:
            try:
                fields = decode_fields(self.body)
            except BadRequest:
                return fields  # the provider judges it
            self.model = fields.model or ""
        elif content_type.startswith(b"multipart/form-data") and (found := _MULTIPART_MODEL.search(self.body)):
            self.model = found[2].decode("utf-8", "replace")
        self.model = self.model or self.target.model
        return fields

    def _read_tags(self, caller: Caller) -> None:
        feature = self.headers.get(b"x-upeti-feature", b"").decode("utf-8", "replace").strip()
        task = self.headers.get(b"x-upeti-task", b"").decode("utf-8", "replace").strip()
        if self.fields.metadata is not None and not (feature and task):
            tagged_feature, tagged_task = metadata_tags(self.fields.metadata)
            feature, task = feature or tagged_feature, task or tagged_task
        for tag in (feature, task):
            if tag and not _TAG.fullmatch(tag):
                allowed = "up to 128 letters, digits, blanks or any of _ . : / @ -"
                raise BadRequest("invalid_tag", f"Tags of feature and task are {allowed}.")
        self.feature = feature or caller.feature
        self.task = task

    # -- for one candidate ---------------------------------------------------------------------------------------

    def bound_pico(self, lane: Lane, tariff: Tariff) -> int | None:
        """What an attempt can cost at most, at the dearest tier it can reach; None when it cannot be bounded."""
        input_tokens = self._input_tokens_max(lane)
        if input_tokens is None:
            return None
        cap = self._output_tokens_max(lane)
        reach = tariff.reach
        if len(reach) == 1:
            return bound_of(reach[0], input_tokens_max=input_tokens, output_tokens_max=cap, choices=self.choices)
        return max(
            bound_of(price, input_tokens_max=input_tokens, output_tokens_max=cap, choices=self.choices)
            for price in reach
        )

    def bound_tokens(self, lane: Lane) -> int | None:
        """How many tokens an attempt can take at most; None when they cannot be bounded."""
        input_tokens = self._input_tokens_max(lane)
        if input_tokens is None:
            return None
        return self.choices * (input_tokens + self._output_tokens_max(lane))

    def _output_tokens_max(self, lane: Lane) -> int:
        """How many tokens a choice can have at most."""
        if self.cap is None:
            return lane.cap
        if lane.cap_field == "max_tokens" and self.fields.max_tokens is None:
            return max(self.cap, lane.cap)  # the host may know no other name, and pass over the one that was given
        return self.cap

    def _input_tokens_max(self, lane: Lane) -> int | None:
        if not self.target.wire.bounded:
            return None
        if has_hosted_tools(self.fields) or isinstance(self.fields.prompt, dict):  # a stored prompt may have tools
            return None
        context = lane.context_tokens
        if has_input_elsewhere(self.body, self.fields):
            return context
        return len(self.body) if context is None else min(context, len(self.body))

    @property
    def asks_usage_for_us(self) -> bool:
        """Whether the usage of this stream must be asked for, and its event taken out again."""
        if not self.stream or not self.target.wire.asks_usage:
            return False
        options = self.fields.stream_options
        return options is None or not options.include_usage

    def body_for(self, lane: Lane) -> bytes:
        """The client's body with what must change for this candidate."""
        model: str | None = lane.model_upstream
        if not self.is_json:
            if self.model and self.model != model:
                name = lane.model_upstream.encode()
                return _MULTIPART_MODEL.sub(lambda found: found[1] + name + found[3], self.body, count=1)
            return self.body
        if self.fields.model == model or not self.model:
            model = None
        cap_field = lane.cap_field if self.cap is None else ""
        include_usage = self.asks_usage_for_us
        if model is None and not cap_field and not include_usage:
            return self.body
        named = self.fields.model is not None
        return edit(self.body, model=model, named=named, cap_field=cap_field, cap=lane.cap, include_usage=include_usage)
