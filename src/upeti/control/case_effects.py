"""What live cases mean for workers: whom they do not serve and what they say to them, and whom they throttle."""

from __future__ import annotations

from typing import Final

import msgspec

from upeti.control.cases import Case, all_cases
from upeti.control.store import Store
from upeti.core.config import Conduct
from upeti.money.budget_terms import CALLS, CASE_PREFIX, BudgetTerms
from upeti.money.window import iso_time
from upeti.rights.conduct.case import NOT_SERVED, State

_NO_CONTACT: Final = "whoever gave you this key"


class Effects(msgspec.Struct, frozen=True):
    """What the compiler of snapshots needs of cases."""

    suspended: dict[str, str] = {}  # tenant → case
    notices: dict[str, str] = {}  # case → what its tenants are told
    throttles: tuple[tuple[str, str], ...] = ()  # (case, tenant)


def effects(store: Store) -> Effects:
    """Read the live cases. A tenant with several is told of the oldest that stops it."""
    suspended: dict[str, str] = {}
    stopping: dict[str, Case] = {}
    throttles = []
    for case in reversed(all_cases(store, live=True)):
        for tenant in case.tenants:
            if case.state in NOT_SERVED:
                stopping[case.id] = case
                suspended.setdefault(tenant, case.id)
            elif case.state is State.THROTTLED:
                throttles.append((case.id, tenant))
    return Effects(suspended, {name: _what_is(case) for name, case in stopping.items()}, tuple(throttles))


def notices_for(made: Effects, settings: Conduct) -> dict[str, str]:
    """Return case → the whole text that its tenants are told, how to appeal included."""
    contact = settings.appeal_contact or _NO_CONTACT
    return {
        name: f"{what} To appeal, write to {contact} and name the case {name}." for name, what in made.notices.items()
    }


def throttle_terms(made: Effects, settings: Conduct) -> list[BudgetTerms]:
    """Return the rate limits that throttled tenants are under."""
    limit = str(settings.throttle_calls_per_minute)
    return [
        BudgetTerms(
            name=f"{CASE_PREFIX}{case}:{tenant}", limit=limit, unit=CALLS, window="minute", shares=(), tenant=tenant
        )
        for case, tenant in made.throttles
    ]


def _what_is(case: Case) -> str:
    since = iso_time(case.suspended_ns, "UTC")
    if case.state is State.QUARANTINED:
        return (
            f"Calls of this tenant are held since {since} by a rule, until {iso_time(case.until_ns, 'UTC')} or until a "
            f"person has looked (case {case.id})."
        )
    appeal = f" Your appeal is decided by {iso_time(case.until_ns, 'UTC')}." if case.state is State.APPEALED else ""
    return f"This tenant is suspended since {since} (case {case.id}).{appeal}"
