"""From a request's path to what is asked for. No input or output.

Three ways in, one meaning: ``/v1/…`` (OpenAI, Anthropic), ``/openai/v1/…`` and
``/openai/deployments/{deployment}/…?api-version=…`` (Azure). A path is taken apart once and then remembered.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from upeti.core.errors import BadRequest, NotFound
from upeti.wire.wires import MESSAGES, OTHER, Wire, wire_of

# What RFC 3986 allows in a path, less the percent-encoded dot, slash and backslash that could leave the prefix.
_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%(?!2[eEfF]|5[cC])[0-9A-Fa-f]{2})*")
_QUERY = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?\[\]%{}\"-]*")
_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)(/.+)")
# Answered here, never passed on, so that a name may hold a slash (`org%2Fmodel`).
_MODELS = re.compile(r"/(?:v1|openai|openai/v1)/models(?:/(.*))?")

_REMEMBERED_MAX: Final = 4096  # paths name files and batches, so there is no end to them
_REMEMBERED_BYTES_MAX: Final = 1024  # anybody can ask for long ones


class Target:
    """What a call asks for. Compared by identity: one path gives one target."""

    __slots__ = ("anthropic", "is_models", "method", "model", "query", "suffix", "wire")

    def __init__(self, wire: Wire, method: str, suffix: str, query: str, model: str, anthropic: bool) -> None:
        self.wire = wire
        self.method = method
        self.suffix = suffix  # behind the version prefix: "/chat/completions"
        self.query = query  # without "?", without Azure's api-version
        self.model = model  # from the path of an Azure deployment, or of a look-up of a model
        self.is_models = method == "GET" and suffix == "/models"
        self.anthropic = anthropic  # answered, and refused, in Anthropic's shape


_remembered: dict[tuple[bytes, bytes], Target] = {}


def target_of(method: bytes, url: bytes) -> Target:
    """Raises ``BadRequest`` for a path that cannot be passed on safely, ``NotFound`` for one that is not served."""
    target = _remembered.get((method, url))
    if target is None:
        target = _parse(method.decode("ascii", "replace"), url)
        if len(url) > _REMEMBERED_BYTES_MAX:
            return target
        if len(_remembered) >= _REMEMBERED_MAX:
            _remembered.clear()
        _remembered[method, url] = target
    return target


def _parse(method: str, url: bytes) -> Target:
    text = url.decode("ascii", "replace")
    if text.startswith(("http://", "https://")):  # absolute form, as proxies are addressed
        text = "/" + text.split("/", 3)[3] if text.count("/") > 2 else "/"
    path, _, query = text.partition("?")
    query = query.partition("#")[0]
    if method == "GET" and (found := _MODELS.fullmatch(path)):
        return Target(OTHER, method, "/models", "", unquote(found[1] or ""), False)
    if (
        not _PATH.fullmatch(path)
        or not _QUERY.fullmatch(query)
        or "//" in path
        or "/./" in path + "/"
        or "/../" in path + "/"
    ):
        raise BadRequest("invalid_path", "The path holds characters or steps that are not passed on.")
    query = "&".join(part for part in query.split("&") if part and not part.startswith("api-version="))
    if found := _DEPLOYMENT.fullmatch(path):
        model, suffix = unquote(found[1]), found[2]
    elif path.startswith("/openai/v1/"):
        model, suffix = "", path[len("/openai/v1") :]
    elif path.startswith("/openai/"):  # Azure's files, batches, … live here, without a deployment
        model, suffix = "", path[len("/openai") :]
    elif path.startswith("/v1/"):
        model, suffix = "", path[len("/v1") :]
    else:
        raise NotFound(
            "unknown_path",
            f"There is nothing at {path[:200]}: set the client's base_url to this address followed by /v1.",
        )
    wire = wire_of(method, suffix)
    anthropic = wire is MESSAGES or suffix.startswith("/messages/")
    return Target(wire, method, suffix, query, model, anthropic)
