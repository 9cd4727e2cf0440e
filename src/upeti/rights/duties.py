"""Duties that come with a permission, and whether a model keeps them. Pure.

Rules: a duty is ``KIND`` or ``KIND:VALUE`` in a file of terms; there are few kinds, and one that is not known is not kept,
because nobody could say how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec


class Plan(msgspec.Struct, frozen=True):
    """What is to be done with a model, as far as duties ask."""

    name: str
    distributed: bool
    notices: tuple[str, ...] = ()  # texts that it is shown with
    licence: str = ""  # under which it is given on
    users_monthly: int | None = None  # None: nobody has said


class Unkept(msgspec.Struct, frozen=True):
    """A duty that a plan does not keep, and what would."""

    duty: str
    cure: str


def unkept(duties: Iterable[str], plan: Plan) -> list[Unkept]:
    """Return the duties that ``plan`` does not keep."""
    found = []
    for duty in sorted(set(duties)):
        kind, _, value = duty.partition(":")
        check = _KINDS.get(kind)
        cure = (
            check(value, plan) if check is not None else "a person must say how it is kept: it is no kind that is known"
        )
        if cure:
            found.append(Unkept(duty, cure))
    return found


def _name_prefix(value: str, plan: Plan) -> str:
    kept = not plan.distributed or plan.name.lower().startswith(value.lower())
    return "" if kept else f"let its name begin with {value}, such as {value}-{plan.name}"


def _notice(value: str, plan: Plan) -> str:
    kept = not plan.distributed or any(value.lower() in notice.lower() for notice in plan.notices)
    return "" if kept else f'show it with the notice: --notice "{value}"'


def _licence_follows(value: str, plan: Plan) -> str:
    kept = not plan.distributed or value.lower() in plan.licence.lower()
    return "" if kept else f'give it on under that licence: --licence "{value}"'


def _not_distributed(value: str, plan: Plan) -> str:
    return "keep it to yourself: leave out --distributed" if plan.distributed else ""


def _users_monthly_max(value: str, plan: Plan) -> str:
    if plan.users_monthly is None or not value.isdigit():
        return f"say how many monthly users your products have: --users-monthly N, at most {value}"
    return (
        ""
        if plan.users_monthly <= int(value)
        else f"with more than {value} monthly users it needs a licence of its own"
    )


_KINDS: Final[dict[str, Callable[[str, Plan], str]]] = {
    "name_prefix": _name_prefix,
    "notice": _notice,
    "licence_follows": _licence_follows,
    "not_distributed": _not_distributed,
    "users_monthly_max": _users_monthly_max,
}
KINDS: Final = frozenset(_KINDS)
