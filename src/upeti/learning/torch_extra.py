"""PyTorch, which training students of the upper levels needs and nothing else of Upeti."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from upeti.core.errors import ConfigError


def need_torch(*more: str) -> Any:
    """Return PyTorch, with Transformers and ``more`` there too. Raises ``ConfigError`` where one is not installed."""
    for name in ("torch", "transformers", *more):
        if find_spec(name) is None:
            raise ConfigError(
                f"{name} is not installed: `make setup-torch` in a clone, or `pip install 'upeti[learning-torch]'`"
            )
    logs = import_module("transformers.utils.logging")
    logs.disable_progress_bar()  # the caller has its own
    logs.set_verbosity_error()
    return import_module("torch")


def half_precision(torch: Any) -> bool:
    """Tell whether the processor computes in bfloat16, which is more than twice as fast."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))
