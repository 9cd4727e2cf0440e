"""Every error Upeti itself gives, as a tree of named values. Messages name the cure.

UpetiError
├── ConfigError            the configuration is wrong: file, line, cure
├── JournalError           the journal is damaged or unreadable
└── CallError              one call is refused or failed; mapped to the wire once, in wire/error_body
    ├── BadRequest             400  the request itself is wrong
    ├── Unauthenticated        401
    ├── Forbidden              403
    ├── NotFound               404
    ├── TooLarge               413, 431
    ├── BudgetExceeded         429  a limit would be overspent
    │   └── RateExceeded       429  … of calls or tokens a minute
    ├── Overloaded             503  a limit of this gateway was reached
    ├── UpstreamFailed         502  no candidate answered
    └── DeadlineExceeded       504
"""

from __future__ import annotations


class UpetiError(Exception):
    """Root of the tree."""


class ConfigError(UpetiError):
    """The configuration cannot be used. ``str(error)`` is ``file:line: what is wrong; cure``."""


class JournalError(UpetiError):
    """A journal file is damaged or breaks its chain."""


class CallError(UpetiError):
    """One call ends with an error of ours. ``status`` is HTTP's, ``kind`` OpenAI's error type."""

    status = 500
    kind = "api_error"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s  # when the same call may fit; None: nobody knows
        if status is not None:
            self.status = status


class BadRequest(CallError):
    status = 400
    kind = "invalid_request_error"


class Unauthenticated(CallError):
    status = 401
    kind = "authentication_error"


class Forbidden(CallError):
    status = 403
    kind = "permission_error"


class NotFound(CallError):
    status = 404
    kind = "not_found_error"


class TooLarge(CallError):
    status = 413
    kind = "request_too_large"


class BudgetExceeded(CallError):
    status = 429
    kind = "budget_error"


class RateExceeded(BudgetExceeded):
    kind = "rate_limit_error"


class Overloaded(CallError):
    status = 503
    kind = "overloaded_error"


class UpstreamFailed(CallError):
    status = 502
    kind = "upstream_error"


class DeadlineExceeded(CallError):
    status = 504
    kind = "timeout_error"
