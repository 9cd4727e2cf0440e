"""What own models have saved, by task: the journal's calls beside the state's students."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from upeti.control.store import Store
from upeti.control.students import Student, all_students
from upeti.core.amount import parse_pico
from upeti.journal.owned_calls import Answered, Audit, owned_calls
from upeti.money.owned import Owned, estimate

if TYPE_CHECKING:
    import duckdb

TRAINING: Final = "USD"  # what training cost is given in
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def owned(
    store: Store,
    connection: duckdb.DuckDBPyConnection,
    first_day: datetime.date | None = None,
    last_day: datetime.date | None = None,
) -> list[Owned]:
    """Return for each task with students what they answered, what that would have cost and what they cost, by name.

    ``connection`` is of ``events_store.connect``. Days are UTC, both included.
    """
    students = all_students(store)
    if not students:
        return []
    answered, audits = owned_calls(connection, {one.model.channel for one in students}, first_day, last_day)
    tasks = {one.place: one.task for one in students}
    found = []
    for task in sorted({one.task for one in students}):
        of_task = [one for one in answered if tasks.get((one.channel, one.model)) == task]
        audited = [one for one in audits if one.task == task]
        training_pico = _training([one for one in students if one.task == task], first_day, last_day)
        if of_task or audited or training_pico:
            found.append(_owned(task, of_task, audited, training_pico))
    return found


def _owned(task: str, answered: Sequence[Answered], audits: Sequence[Audit], training_pico: int) -> Owned:
    remarks = []
    priced = [one for one in audits if one.cost_pico is not None]
    currencies = sorted({one.currency for one in priced})
    currency = currencies[0] if currencies else TRAINING
    if len(currencies) > 1:
        remarks.append(
            f"audits are in {', '.join(currencies)}: only those in {currency} are looked at; choose a time with one"
        )
        priced = [one for one in priced if one.currency == currency]
    if len(priced) < len(audits):
        remarks.append(f"{len(audits) - len(priced)} audits are left out: no price, or another currency")
    if training_pico and currency != TRAINING:
        remarks.append(f"training is charged in {TRAINING}, and not in this sum")
        training_pico = 0
    own = [one for one in answered if one.currency == currency]
    unpriced = sum(one.unpriced for one in answered)
    if unpriced:
        remarks.append(f"{unpriced} own answers have no price: what they cost is not charged")
    if any(one.cost_pico for one in answered if one.currency != currency):
        remarks.append("own answers that cost something in another currency are not in this sum")
    calls: dict[datetime.date, int] = defaultdict(int)
    for one in answered:
        calls[one.day] += one.calls
    costs = [(one.day, one.cost_pico) for one in priced if one.cost_pico is not None]
    return Owned(
        task=task,
        currency=currency,
        calls=sum(calls.values()),
        audits=len(costs),
        teacher=estimate(calls, costs),
        audits_pico=sum(cost for _, cost in costs),
        own_pico=sum(one.cost_pico for one in own),
        training_pico=training_pico,
        remarks=tuple(remarks),
    )


def _training(students: Sequence[Student], first_day: datetime.date | None, last_day: datetime.date | None) -> int:
    """Return what training cost, in the time in which the students were registered."""
    total = 0
    for one in students:
        day = (_EPOCH + datetime.timedelta(microseconds=one.model.registered_ns // 1000)).date()
        if (first_day is None or day >= first_day) and (last_day is None or day <= last_day):
            total += parse_pico(one.training_cost)
    return total
