"""Kinds of values that settings have: what a name, a port, a secret may look like."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]
FeatureName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:/@ -]{1,128}$")]
RouteName = Annotated[str, Meta(pattern=r"^(\*|[A-Za-z0-9_.:/@ -]{1,256})$")]
Port = Annotated[int, Meta(ge=0, le=65535)]
Milliseconds = Annotated[int, Meta(ge=1, le=3_600_000)]
Secret = Annotated[
    str,
    Meta(
        pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+|stored:[A-Za-z0-9_.-]+)$",
        description="Where a secret is found: `env:NAME`, `file:PATH`, or `stored:NAME` (put there, encrypted, "
        "with `upeti secrets set NAME`). Never the secret itself.",
    ),
]
