"""What tests of the upper levels need beyond `make setup`."""

from __future__ import annotations

from upeti.core.errors import ConfigError
from upeti.learning.torch_extra import need_torch

HOW = "this test trains with PyTorch, which `make setup` leaves out: run `make setup-torch`, then `make test-full`"


def demand_torch() -> None:
    """Fail, saying what to install: a proof that was not run is not a proof that passed."""
    try:
        need_torch("onnx", "peft", "gguf")
    except ConfigError as error:
        raise AssertionError(f"{HOW} ({error})") from None
