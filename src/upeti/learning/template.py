"""Prompt templates: what is constant in the requests of a task, and what varies (its slots).

Rules: a prompt is the roles and texts of a ``chat.completions`` request and its *form*, the fields that shape the answer
(tools, response format). A template has the same roles and form, and for each message the constant parts around its slots;
few-shot examples are constant parts. Two requests of different templates are of different tasks until somebody says
otherwise, so finding them splits where it is in doubt.

Finding them goes in two steps. Runs of words that stand in the same prompts of a group are one *bundle* (as with Drain's
tokens, but prompts have no fixed length); prompts with the same frequent bundles are one cluster. Within a cluster the
constant parts are what the first prompt keeps when it is aligned with one after the other that it does not match yet
(longest common run first). A part that is too short to be told from chance becomes part of the slot, which costs the
student a constant word; the other way round a template would turn its own calls away. Placeholders of redaction are
always slots: what they stand for is there again when a live request comes. Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, Final

import msgspec

from upeti.core.errors import UpetiError

SEPARATOR: Final = "\n"  # between the slots of one text

# Fields of a request that decide the shape of its answer; what a client need not say is the same as saying the default.
_FORM_FIELDS: Final = (
    ("functions", None),
    ("function_call", None),
    ("logprobs", False),
    ("modalities", ["text"]),
    ("n", 1),
    ("parallel_tool_calls", True),
    ("response_format", {"type": "text"}),
    ("tool_choice", "auto"),
    ("tools", None),
    ("top_logprobs", None),
)

LEAST: Final = 20  # different prompts that a template is found from
_CONSTANT_WORDS_MIN: Final = 5  # of a template that nobody named: fewer may be how people talk
_PART_WORDS_MIN: Final = 2
_RUN: Final = 5  # words of the runs that are counted
# How many words of its own a bundle needs, by the share of the group that has it: (share, different words).
_BUNDLES: Final = ((0.8, 2), (0.2, 4), (0.05, 8))

_PLACEHOLDER: Final = re.compile(r"\[[A-Z][A-Z_]*_[1-9][0-9]*\]")
_TOKEN: Final = re.compile(r"\[[A-Z][A-Z_]*_[1-9][0-9]*\]|\w+|\s+|[^\w\s]")

_Tokens = list[str]
_Skeleton = list[str | None]  # None: a slot


class TemplateError(UpetiError):
    """No template can be made of these requests."""


class Prompt(msgspec.Struct, frozen=True):
    """What of a request a template speaks of."""

    roles: tuple[str, ...]
    texts: tuple[str, ...]
    form: str = ""  # canonical JSON of the fields that shape the answer; "": none is there


class Template(msgspec.Struct, frozen=True):
    """Each message's constant parts: one more than it has slots, so that ``("",  "")`` is a message that is a slot."""

    roles: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]
    form: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the template's canonical JSON, in hexadecimal."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return sum(len(parts) - 1 for parts in self.parts)

    @property
    def words(self) -> int:
        """How many words and signs are constant."""
        return sum(_words(_TOKEN.findall(part)) for parts in self.parts for part in parts)


class Found(msgspec.Struct, frozen=True):
    """A template and how many of the prompts are its."""

    template: Template
    prompts: int


# -- reading requests
# -------------------------------------------------------------------------------------------------------------


_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
_canonical: Final = msgspec.json.Encoder(order="deterministic").encode


def prompt_of(body: Mapping[str, Any]) -> Prompt | None:
    """Return the prompt of a decoded request; None when it is none, or not of text alone (images, calls of tools)."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return None
    roles: list[str] = []
    texts: list[str] = []
    for message in messages:
        if not isinstance(message, dict) or message.get("tool_calls"):
            return None
        role, content = message.get("role"), message.get("content")
        if isinstance(content, list):
            content = _joined(content)
        if not isinstance(role, str) or not isinstance(content, str):
            return None
        roles.append(role)
        texts.append(content)
    form = {name: body[name] for name, default in _FORM_FIELDS if body.get(name) not in (None, default)}
    return Prompt(tuple(roles), tuple(texts), _canonical(form).decode() if form else "")


def read_prompt(request: bytes) -> Prompt | None:
    """Return the prompt of a request's body; None as ``prompt_of``, and for what is no JSON object."""
    try:
        return prompt_of(_decode(request))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _joined(parts: list[Any]) -> str | None:
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return SEPARATOR.join(texts) if len(texts) == len(parts) else None


# -- matching
# -------------------------------------------------------------------------------------------------------------


def match(template: Template, prompt: Prompt) -> tuple[str, ...] | None:
    """Return what stands in the slots, in their order; None when the prompt is of another template.

    Where a constant part stands in several places of a message with several slots, the first place counts.
    """
    if prompt.roles != template.roles or prompt.form != template.form:
        return None
    slots: list[str] = []
    for parts, text in zip(template.parts, prompt.texts, strict=True):
        first, last = parts[0], parts[-1]
        if len(parts) == 1:
            if text != first:
                return None
            continue
        start, end = len(first), len(text) - len(last)
        if end < start or not text.startswith(first) or not text.endswith(last):
            return None
        for part in parts[1:-1]:
            place = text.find(part, start, end)
            if place < 0:
                return None
            slots.append(text[start:place])
            start = place + len(part)
        slots.append(text[start:end])
    return tuple(slots)


def text_of(slots: Sequence[str]) -> str:
    """Return what a student reads: the slot, or the slots line by line."""
    return slots[0] if len(slots) == 1 else SEPARATOR.join(slots)


def text_in(template: Template, request: bytes) -> str | None:
    """Return what a student reads of a request's body; None when it is not of the template."""
    prompt = read_prompt(request)
    slots = match(template, prompt) if prompt is not None else None
    return text_of(slots) if slots else None


def pattern_text(template: Template, slot: str = "{…}") -> str:
    """Return the template for people to read: a line ``role: text`` for each message, ``slot`` where something varies."""
    return "\n".join(f"{role}: {slot.join(parts)}" for role, parts in zip(template.roles, template.parts, strict=True))


# -- finding
# -------------------------------------------------------------------------------------------------------------


def find_templates(prompts: Iterable[Prompt], least: int = LEAST) -> list[Found]:
    """Return the templates of at least ``least`` different prompts each, the most frequent first.

    It depends on the prompts, not on their order. Free conversation has no template. What is found twice, in a prompt of a
    wider template, counts for the narrower one alone.
    """
    counted = Counter(prompts)
    templates: set[Template] = set()
    for members in _groups(counted).values():
        if len(members) >= least:
            for cluster in _clusters(members, least):
                template = _common(cluster)
                if template.slots and (template.form or template.words >= _CONSTANT_WORDS_MIN):
                    templates.add(template)
    narrow_first = sorted(templates, key=lambda one: (-one.words, one.digest))
    mine: Counter[Template] = Counter()
    for prompt, times in counted.items():
        owner = next((one for one in narrow_first if match(one, prompt) is not None), None)
        if owner is not None:
            mine[owner] += times
    return [Found(one, count) for one, count in sorted(mine.items(), key=lambda pair: (-pair[1], pair[0].digest))]


def template_of(prompts: Iterable[Prompt]) -> Template:
    """Return the one template of prompts that are known to be of one task: that of most of them.

    Raises ``TemplateError`` when there is nothing that varies, or nothing at all.
    """
    groups = _groups(Counter(prompts))
    if not groups:
        raise TemplateError("there is no prompt of text in these calls: only chat.completions of text have a template")
    largest = max(groups.values(), key=lambda members: (len(members), members[0].roles, members[0].form))
    clusters = _clusters(largest, 2)
    best = max(clusters, key=lambda cluster: (len(cluster), cluster[0].texts)) if clusters else largest
    template = _common(best)
    if not template.slots:
        raise TemplateError("nothing varies in these calls: they are one and the same question, and a cache answers it")
    return template


def _groups(prompts: Iterable[Prompt]) -> dict[tuple[tuple[str, ...], str], list[Prompt]]:
    """Return the different prompts by roles and form, in an order that no order of arrival has a part in."""
    groups: dict[tuple[tuple[str, ...], str], list[Prompt]] = defaultdict(list)
    for prompt in set(prompts):
        groups[prompt.roles, prompt.form].append(prompt)
    for members in groups.values():
        members.sort(key=_shuffled)
    return groups


def _shuffled(prompt: Prompt) -> bytes:
    return hashlib.blake2b(msgspec.json.encode(prompt.texts), digest_size=16).digest()


def _clusters(members: list[Prompt], least: int) -> list[list[Prompt]]:
    """Return the prompts that have the same bundles, where at least ``least`` have them."""
    enough = max(least, _BUNDLES[-1][0] * len(members))
    columns = [{prompt.texts[place] for prompt in members} for place in range(len(members[0].texts))]
    same = {place: _words_of(column.pop()) for place, column in enumerate(columns) if len(column) == 1}
    # Most runs come once, in a slot: counted by their hashes first, they are not all held at the same time.
    counts = Counter(hash(run) for prompt in members for run in set(_runs(prompt, same)))
    postings: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, prompt in enumerate(members):
        for run in set(_runs(prompt, same)):
            if counts[hash(run)] >= enough:
                postings[run].append(number)
    bundles: dict[tuple[int, ...], list[tuple[Any, ...]]] = defaultdict(list)
    for run, numbers in postings.items():
        if len(numbers) >= enough:
            bundles[tuple(numbers)].append(run)
    keys: list[list[int]] = [[] for _ in members]
    for name, holders in enumerate(_strong(bundles, len(members))):
        for number in holders:
            keys[number].append(name)
    found: dict[tuple[int, ...], list[Prompt]] = defaultdict(list)
    for key, prompt in zip(keys, members, strict=True):
        if key:
            found[tuple(key)].append(prompt)
    return [cluster for cluster in found.values() if len(cluster) >= least]


def _strong(bundles: Mapping[tuple[int, ...], list[tuple[Any, ...]]], members: int) -> list[tuple[int, ...]]:
    """Return whose bundles have words enough of their own: a run that reaches over the end of a slot repeats those of the
    constant part beside it, and adds but what often stands at that end.
    """
    strong: list[tuple[frozenset[int], set[Any]]] = []
    for numbers in sorted(bundles, key=lambda numbers: (-len(numbers), numbers)):
        share = len(numbers) / members
        holders = frozenset(numbers)
        words = {(run[0], word) for run in bundles[numbers] for word in run[2:]}
        own = words.difference(*(those for wider, those in strong if holders <= wider))
        if any(share >= at_least and len(own) >= enough for at_least, enough in _BUNDLES):
            strong.append((holders, words))
    return [tuple(sorted(holders)) for holders, _ in strong]


def _words_of(text: str) -> list[str]:
    return ["" if _PLACEHOLDER.fullmatch(token) else token for token in _TOKEN.findall(text) if not token.isspace()]


def _runs(prompt: Prompt, same: Mapping[int, list[str]]) -> Iterator[tuple[Any, ...]]:
    """Yield runs of words: (message, kind, words), of a whole message, of its beginning, its end, and all of ``_RUN``.

    ``same``: message → words, of those that are the same in all prompts: they are one run.
    """
    for message, text in enumerate(prompt.texts):
        words = same.get(message) or _words_of(text)
        yield message, "=", *words
        if message in same:
            continue
        for length in range(2, min(_RUN, len(words)) + 1):
            yield message, "^", *words[:length]
            yield message, "$", *words[-length:]
        for start in range(len(words) - _RUN + 1):
            yield message, "", *words[start : start + _RUN]


def _common(cluster: list[Prompt]) -> Template:
    """Return the template that all of the cluster match. One pass is enough: parts only ever become shorter."""
    skeletons = [_skeleton_of(text) for text in cluster[0].texts]
    template = _template(cluster[0], skeletons)
    for prompt in cluster[1:]:
        if match(template, prompt) is None:
            texts = zip(skeletons, prompt.texts, strict=True)
            skeletons = [_cleaned(_aligned(skeleton, _TOKEN.findall(text))) for skeleton, text in texts]
            template = _template(prompt, skeletons)
    return template


def _skeleton_of(text: str) -> _Skeleton:
    return _cleaned([None if _PLACEHOLDER.fullmatch(token) else token for token in _TOKEN.findall(text)])


def _aligned(skeleton: _Skeleton, tokens: _Tokens) -> _Skeleton:
    """Return what both have, in order, with a slot wherever one of them has more."""
    least = min(len(skeleton), len(tokens))
    before = 0
    while before < least and skeleton[before] == tokens[before]:
        before += 1
    behind = 0
    while behind < least - before and skeleton[-1 - behind] == tokens[-1 - behind]:
        behind += 1
    inner, others = skeleton[before : len(skeleton) - behind], tokens[before : len(tokens) - behind]
    made = skeleton[:before]
    place = other = 0
    for block in SequenceMatcher(_is_space, inner, others, autojunk=False).get_matching_blocks():
        if block.a > place or block.b > other:
            made.append(None)
        made += inner[block.a : block.a + block.size]
        place, other = block.a + block.size, block.b + block.size
    return made + skeleton[len(skeleton) - behind :]


def _is_space(token: str | None) -> bool:
    return token is not None and token.isspace()


def _cleaned(skeleton: _Skeleton) -> _Skeleton:
    """Take parts that are too short to be told from chance into the slots beside them."""
    parts = _parts(skeleton)
    if len(parts) == 1:
        return skeleton
    first, *inner, last = ([] if _words(part) < _PART_WORDS_MIN else part for part in parts)
    made: _Skeleton = [*first, None]
    for part in inner:
        made += [*part, None] if part else []
    return made + last


def _parts(skeleton: _Skeleton) -> list[_Tokens]:
    parts: list[_Tokens] = [[]]
    for token in skeleton:
        if token is None:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _words(tokens: Sequence[str]) -> int:
    return sum(not token.isspace() for token in tokens)


def _template(prompt: Prompt, skeletons: list[_Skeleton]) -> Template:
    parts = tuple(tuple("".join(part) for part in _parts(skeleton)) for skeleton in skeletons)
    return Template(prompt.roles, parts, prompt.form)
