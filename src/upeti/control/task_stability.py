"""How often a teacher says again what it has said: kept questions asked once more through the gateway.

Rules: it is a client like any other, so budgets and rights hold for it, and its calls carry the feature ``stability`` and no
task, so that they are on the bill apart and are of no task. Only questions are asked from which nothing was redacted, of
tenants whose consent and contract allow to evaluate, each text once, in an order that no answer has a part in. An
answer of another channel or model says nothing of the teacher and is counted as failed. No call is made that could go over
the limit: the dearest call of the task so far is taken for what the next one costs; one without a price ends it.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from upeti.control import consents
from upeti.control.store import Store
from upeti.control.tasks import Kept
from upeti.core.amount import AmountError, decimal_text, parse_pico
from upeti.feed.gateway_client import GatewayClient, Reply
from upeti.learning.answers import AnswerForm, read_answer
from upeti.learning.tasks import Agreement, Seen, TaskError
from upeti.learning.template import Template, match
from upeti.rights.permit import permit
from upeti.rights.terms import Origin, Terms

PURPOSE = "evaluate"
FEATURE = "stability"


class Question(msgspec.Struct, frozen=True):
    """What is asked again, and what was answered."""

    request: bytes
    answer: bytes
    channel: str
    model: str


def questions(
    store: Store, terms: Terms, kept: Sequence[Kept], template: Template, teacher: tuple[str, str], count: int
) -> tuple[list[Question], dict[str, int]]:
    """Return up to ``count`` questions of a task, and how many pairs were left out, by reason."""
    given = consents.in_force(store)
    left_out: Counter[str] = Counter()
    chosen: dict[bytes, Question] = {}
    now_ns = time.time_ns()
    for one in sorted(kept, key=lambda one: hashlib.sha256(one.pair.pair_id.encode()).digest()):
        if len(chosen) == count:
            break
        pair = one.pair
        consent = given.get(pair.tenant)
        origin = Origin(pair.channel, pair.contract, pair.at_ns, pair.tenant, pair.model)
        if one.prompt is None or match(template, one.prompt) is None:
            left_out["not of the template"] += 1
        elif (pair.channel, pair.model) != teacher:
            left_out["answered by another channel or model"] += 1
        elif pair.redactions:
            left_out["something was redacted"] += 1
        elif consent is None or not consent.covers(PURPOSE):
            left_out[f"no consent of the tenant for the purpose {PURPOSE}: `upeti capture consent`"] += 1
        elif not (found := permit(terms, origin, PURPOSE, now_ns)).allowed:
            left_out[f"the contract does not permit to {PURPOSE}: {found.why}"] += 1
        else:
            chosen.setdefault(msgspec.json.encode(one.prompt), Question(one.request, one.answer, *teacher))
    return list(chosen.values()), dict(left_out)


def ask_again(
    client: GatewayClient,
    seen: Seen,
    form: AnswerForm,
    asked: Sequence[Question],
    *,
    limit: str,
    currency: str,
    route: str = "",
    told: Callable[[int], None] = lambda count: None,
) -> tuple[Agreement, str]:
    """Ask, one after the other; return what was measured, and why it ended early ("" when it did not).

    With a ``route`` that one is asked, and whoever answers there is compared with the teacher: another snapshot of a model.
    Raises ``TaskError`` when nothing may or can be asked.
    """
    most = _limit(limit)
    dearest = seen.dearest.get(currency, 0)
    spent, agreed, answered, failed, ended = 0, 0, 0, 0, ""
    by: Counter[tuple[str, str]] = Counter()
    for number, one in enumerate(asked, 1):
        if spent + dearest > most:
            ended = f"the limit of {limit} {currency}: one call costs up to {decimal_text(dearest)}"
            break
        reply = client.post("/chat/completions", _again(one.request, route), {"x-upeti-feature": FEATURE})
        told(number)
        if reply.status != 200:
            failed += 1
            ended = _hopeless(reply)
            if ended:
                break
            continue
        cost = _cost(reply, currency)
        if cost is None:
            ended = (
                f"the cost of {reply.call_id} is not known in {currency}: `upeti prices` says which prices there are"
            )
            failed += 1
            break
        spent += cost
        dearest = max(dearest, cost)
        if not route and reply.served_by != (one.channel, one.model):
            failed += 1
            continue
        by[reply.served_by] += 1
        answered += 1
        said = read_answer(form, one.answer)
        agreed += said is not None and said == read_answer(form, reply.body)
    if not answered:
        raise TaskError(
            f"nothing was measured of `{seen.name}`: {ended or f'{failed} calls were answered by nobody else'}"
        )
    channel, model = by.most_common(1)[0][0]
    agreement = Agreement(
        task=seen.name,
        at_ns=time.time_ns(),
        route=route or seen.route,
        channel=channel,
        model=model,
        asked=answered,
        agreed=agreed,
        failed=failed,
        cost=decimal_text(spent),
        currency=currency,
    )
    return agreement, ended


def _limit(limit: str) -> int:
    try:
        return parse_pico(limit)
    except AmountError as error:
        raise TaskError(f"--limit: {error}") from None


def _again(request: bytes, route: str) -> dict[str, object]:
    body: dict[str, object] = msgspec.json.decode(request)
    body.pop("stream", None)
    body.pop("stream_options", None)
    return body | ({"model": route} if route else {})


def _cost(reply: Reply, currency: str) -> int | None:
    try:
        return parse_pico(reply.cost) if reply.currency == currency else None
    except AmountError:
        return None


def _hopeless(reply: Reply) -> str:
    """Return why no further call will do better; "" when one may."""
    return reply.reason if reply.status in (0, 401, 403, 429) else ""
