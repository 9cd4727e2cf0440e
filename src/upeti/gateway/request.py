"""What a call asks for, read from its head and body: everything the plan and the bound need."""

from __future__ import annotations

import re

from upeti.core.errors import BadRequest, NotFound
from upeti.gateway.auth import check_route
from upeti.gateway.live import Cells, LiveCandidate, LiveRoute, LiveView
from upeti.gateway.paths import Target
from upeti.gateway.snapshot import Caller
from upeti.wire.body import BodyFields, choices_of, decode_fields, edit, has_input_elsewhere, metadata_tags
from upeti.wire.wires import OTHER

_TAG = re.compile(r"[A-Za-z0-9_.:/@ -]{1,128}")
_MULTIPART_MODEL = re.compile(rb'(name="model"(?:\r\n[^\r\n]+)*\r\n\r\n)([^\r\n]{1,256})(\r\n)')
_NO_FIELDS = BodyFields()
_IMPOSSIBLE_TOKENS = 1 << 53  # larger numbers are not exact in JSON; nobody generates that much


class Call:
    """One client request as it came off the connection."""

    __slots__ = ("body", "headers", "http_1_0", "keep_alive", "method", "received_s", "url")

    def __init__(
        self,
        method: bytes,
        url: bytes,
        headers: dict[bytes, bytes],
        body: bytes,
        *,
        keep_alive: bool,
        http_1_0: bool,
        received_s: float,
    ) -> None:
        self.method = method
        self.url = url
        self.headers = headers  # names in lower case
        self.body = body
        self.keep_alive = keep_alive
        self.http_1_0 = http_1_0
        self.received_s = received_s  # loop time


class Request:
    """A call that has been understood."""

    __slots__ = (
        "body",
        "cap",
        "choices",
        "elsewhere",
        "feature",
        "fields",
        "json",
        "model",
        "route",
        "stream",
        "target",
        "task",
    )

    def __init__(self, call: Call, target: Target, caller: Caller, view: LiveView) -> None:
        """Raises ``BadRequest``, ``NotFound`` (no such model here), ``Forbidden`` (not for this key)."""
        self.target = target
        self.body = body = call.body
        content_type = call.headers.get(b"content-type", b"application/json")
        self.json = content_type.startswith(b"application/json") and bool(body)
        self.fields = fields = self._fields(target, content_type)
        self.model = fields.model or target.model
        if target.wire is not OTHER and not self.model:
            raise BadRequest("missing_model", "The body names no model: add `model`.", param="model")
        if not self.model and target.wire is OTHER and not self.json:
            found = _MULTIPART_MODEL.search(body) if content_type.startswith(b"multipart/form-data") else None
            self.model = found[2].decode("utf-8", "replace") if found else ""
        self.route = self._route(view, caller)
        self.stream = bool(fields.stream)
        self.choices = choices_of(fields)
        caps = [
            cap
            for cap in (fields.max_completion_tokens, fields.max_tokens, fields.max_output_tokens)
            if cap is not None
        ]
        self.cap = max(caps) if caps else None
        if (
            self.choices > 1024
            or self.choices < 1
            or (self.cap is not None and not 0 <= self.cap <= _IMPOSSIBLE_TOKENS)
        ):
            raise BadRequest("invalid_value", "`n` or the output cap is out of range: no provider takes that.")
        self.elsewhere = has_input_elsewhere(body, fields)
        self.feature, self.task = self._tags(call, caller)

    def _fields(self, target: Target, content_type: bytes) -> BodyFields:
        if target.wire is not OTHER:
            if not content_type.startswith(b"application/json"):
                raise BadRequest("invalid_content_type", "Send the body as `Content-Type: application/json`.")
            return decode_fields(self.body)
        if not self.json:
            return _NO_FIELDS
        try:
            return decode_fields(self.body)
        except BadRequest:
            return _NO_FIELDS  # a relayed API of which we know nothing: the provider judges it

    def _route(self, view: LiveView, caller: Caller) -> LiveRoute:
        if self.model:
            route = view.route(self.model)
            if route is not None:
                check_route(caller, route.name)
                return route
            if self.target.wire is not OTHER:
                known = ", ".join(sorted(name for name in view.routes if name != "*")[:20])
                raise NotFound(
                    "model_not_found",
                    f"There is no route for the model {self.model[:100]!r}. Known here: {known or 'none'}. "
                    "Add a [[route]] with that name, or one named *.",
                    param="model",
                )
        route = view.default_route(self.target)
        if route is None:
            raise NotFound("no_channel", "No channel takes this path: add a [[channel]] of a fitting kind.")
        if caller.routes:
            check_route(caller, route.name)
        return route

    def _tags(self, call: Call, caller: Caller) -> tuple[str, str]:
        headers = call.headers
        feature = headers.get(b"x-upeti-feature", b"").decode("utf-8", "replace").strip()
        task = headers.get(b"x-upeti-task", b"").decode("utf-8", "replace").strip()
        if self.fields.metadata is not None and not (feature and task):
            tagged_feature, tagged_task = metadata_tags(self.fields.metadata)
            feature, task = feature or tagged_feature, task or tagged_task
        for tag in (feature, task):
            if tag and not _TAG.fullmatch(tag):
                raise BadRequest(
                    "invalid_tag",
                    "Feature and task tags are up to 128 letters, digits, blanks or any of _ . : / @ -",
                )
        return feature or caller.feature, task

    # -- for one candidate ---------------------------------------------------------------------------------------

    def output_cap(self, candidate: LiveCandidate, view: LiveView) -> int:
        """The largest number of output tokens per choice: the client's, the API's own, or the one put in."""
        wire = self.target.wire
        if not wire.cap_fields:
            return 0
        if self.cap is not None:
            return self.cap
        return wire.cap_default or candidate.output_tokens_max or view.output_tokens_default

    def bound_pico(self, cells: Cells, candidate: LiveCandidate, view: LiveView) -> int | None:
        """What the attempt can cost at most; None when it cannot be bounded."""
        if not self.target.wire.bounded:
            return None
        input_tokens = len(self.body)
        context = candidate.context_tokens
        if self.elsewhere:
            if context is None:
                return None
            input_tokens = context
        elif context is not None and context < input_tokens:
            input_tokens = context
        output_tokens = self.output_cap(candidate, view)
        per_choice = input_tokens * cells.input_pico + output_tokens * cells.output_pico
        return cells.price.per_call_pico + self.choices * per_choice

    @property
    def asks_usage_for_us(self) -> bool:
        """Whether the usage of this stream must be asked for, and its event taken out again."""
        if not self.stream or not self.target.wire.asks_usage:
            return False
        options = self.fields.stream_options
        return options is None or not options.include_usage

    def body_for(self, candidate: LiveCandidate, model_upstream: str, view: LiveView) -> bytes:
        """The client's body with what must change for this candidate."""
        wire = self.target.wire
        if not self.json:
            if self.model and self.model != model_upstream:
                name = model_upstream.encode()
                return _MULTIPART_MODEL.sub(lambda found: found[1] + name + found[3], self.body, count=1)
            return self.body
        model = None if self.fields.model == model_upstream or not self.model else model_upstream
        cap_field = ""
        cap = 0
        if wire.cap_fields and self.cap is None:
            cap_field = candidate.cap_field(wire)
            cap = self.output_cap(candidate, view)
        include_usage = self.asks_usage_for_us
        if model is None and not cap_field and not include_usage:
            return self.body
        return edit(self.body, model=model, cap_field=cap_field, cap=cap, include_usage=include_usage)
