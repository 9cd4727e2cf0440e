"""How an own model says that it leaves a call to the next candidate: status 422 and one header.

Rules: only the answer of a channel whose kind defers means it; from anybody else the header means nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

STATUS: Final = 422
HEADER: Final = "x-upeti-deferred"  # its value is a reason


class Reason(StrEnum):
    """Why an own model leaves a call to the next candidate."""

    SHADOW = "shadow"  # it is not let in yet, and would have answered
    NOT_SURE = "not_sure"  # below its certified threshold
    OUT_OF_SCOPE = "out_of_scope"  # unlike what it was trained on
    OTHER_TEMPLATE = "other_template"  # not a call of its task
    LAPSED = "lapsed"  # its certificate is over
    STOPPED = "stopped"  # an audit gave the alarm
    BUSY = "busy"  # more calls wait than can be answered in time
    NOT_READY = "not_ready"  # it is not loaded, or its files were refused
    CANNOT = "cannot"  # the call asks for what it never does: several choices, log-probabilities, images
    OTHER = "other"  # a word that this version does not know
