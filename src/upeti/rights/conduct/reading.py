"""What a request says of itself: its varying text, and the marks that a harvester leaves. From bytes, on any wire.

Rules: nothing here is kept but small numbers (``Look``); texts stay in memory only as long as templates are told from what
varies. A request that cannot be read, or asks for no generated text, is passed over. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from enum import IntFlag
from hashlib import blake2b
from typing import Any, Final

import msgspec

from upeti.wire.wires import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES, RESPONSES

TEXT_MAX: Final = 100_000  # letters of a prompt that are looked at
_SEARCHED_MAX: Final = 2_000  # of them, for phrases: what is asked stands at the beginning or at the end
LONG_OUTPUT_TOKENS: Final = 4_096  # a cap that apps with people in front of them seldom ask for
LENGTHS_PER_DOUBLING: Final = 2
_LETTERS_COUNTED: Final = 500
_WIRES: Final = frozenset(wire.name for wire in (CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, MESSAGES))
_WORD: Final = re.compile(r"\w+")

# Asking for the steps on the way to an answer: what a distilled model is trained on.
_REASONING: Final = re.compile(
    r"step[- ]by[- ]step|chain[- ]of[- ]thought|<think>|show (?:all )?your (?:work|reasoning|thinking)"
    r"|explain your (?:reasoning|thought)|reason(?:ing)? (?:process|trace|steps)|think (?:carefully|aloud|out loud)"
    r"|langkah demi langkah|jelaskan (?:alasan|penalaran)"
)
# Asking for training data: tasks, instructions, pairs, in number.
_GENERATION: Final = re.compile(
    r"come up with (?:a (?:series|list|set|diverse set)|\d+|new|diverse)|instruction[- ](?:tuning|following|response)"
    r"|training (?:data|example|sample|set)|(?:generate|write|create|produce|give)(?: me)? \d+ "
    r"(?:\w+ ){0,3}(?:task|instruction|question|prompt|example|sample|dialog|conversation|pair|variation)s?"
    r"|\btask \d+:|###? ?(?:instruction|response|input|output)\b|question[- ]answer pairs?|seed tasks?|synthetic data"
    r"|buatlah \d+ (?:contoh|pertanyaan|instruksi)"
)


class Mark(IntFlag):
    """What is noted of one call beside its shape."""

    END_USER = 1  # it says which of the tenant's users it is for
    LONG_OUTPUT = 2
    CHOICES = 4  # several answers, or their log-probabilities
    REASONING = 8
    GENERATION = 16


class Reading(msgspec.Struct, frozen=True):
    """One request, understood."""

    system: str  # instructions that the app sends with every call
    user: str  # the last thing that was said
    marks: Mark


class Shape(msgspec.Struct, frozen=True, array_like=True):
    """A text as seven small numbers; no text can be made from them."""

    length: int  # log2 of its letters, in halves
    lines: int
    digits: int
    capitals: int  # tenths
    question: int
    ending: int  # the last sign's kind
    opening: int  # 12 bits of a keyed hash of the first word


def read_call(request: bytes, wire: str) -> Reading | None:
    """Return what ``request`` says; None when it asks for no text, or cannot be read. Never raises."""
    if wire not in _WIRES:
        return None
    try:
        body = msgspec.json.decode(request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    system, user = _texts(body, wire)
    text = user[:TEXT_MAX]
    if not text.strip():
        return None
    marks = Mark(0)
    metadata = body.get("metadata")
    in_metadata = isinstance(metadata, dict) and bool(metadata.get("user_id"))
    if body.get("user") or body.get("safety_identifier") or in_metadata:
        marks |= Mark.END_USER
    if _number(body, "max_tokens", "max_completion_tokens", "max_output_tokens") >= LONG_OUTPUT_TOKENS:
        marks |= Mark.LONG_OUTPUT
    if _number(body, "n", "best_of") > 1 or body.get("logprobs") or body.get("top_logprobs"):
        marks |= Mark.CHOICES
    said = f"{_ends(system)}\n{_ends(text)}".lower()
    if _REASONING.search(said) or _asks_summary(body):
        marks |= Mark.REASONING
    if _GENERATION.search(said):
        marks |= Mark.GENERATION
    return Reading(system[:TEXT_MAX], text, marks)


def shape_of(text: str, salt: bytes) -> Shape:
    """Return the shape of ``text``; ``salt`` keys the hash of its first word."""
    head = text[:_LETTERS_COUNTED]
    first = _WORD.search(head)
    opening = 0
    if first is not None:
        digest = blake2b(first.group().lower().encode(), digest_size=2, key=salt).digest()
        opening = int.from_bytes(digest, "big") & 0xFFF
    return Shape(
        length=int(math.log2(len(text) + 1) * LENGTHS_PER_DOUBLING),
        lines=min(8, text.count("\n")),
        digits=min(4, sum(letter.isdigit() for letter in head) // 3),
        capitals=sum(letter.isupper() for letter in head) * 10 // (1 + len(head)),
        question=int("?" in text),
        ending=_ending(text),
        opening=opening,
    )


def digest_of(text: str, salt: bytes) -> int:
    """Return a keyed 64-bit digest of a text, blanks and case aside: to count repeats, not to find it."""
    plain = " ".join(text.lower().split())
    return int.from_bytes(blake2b(plain.encode(errors="surrogatepass"), digest_size=8, key=salt).digest(), "big") >> 1


def _ends(text: str) -> str:
    return text if len(text) <= 2 * _SEARCHED_MAX else f"{text[:_SEARCHED_MAX]}\n{text[-_SEARCHED_MAX:]}"


def _texts(body: dict[str, Any], wire: str) -> tuple[str, str]:
    if wire == COMPLETIONS.name:
        return "", "\n".join(_parts(body.get("prompt")))
    if wire == RESPONSES.name:
        said = body.get("input")
        first = "\n".join(_parts(body.get("instructions")))
        messages: Any = said if isinstance(said, list) else [{"role": "user", "content": said}]
    else:
        first = "\n".join(_parts(body.get("system")))
        messages = body.get("messages")
    if not isinstance(messages, list):
        return first, ""
    systems = [first] if first else []
    user = ""
    for message in messages:
        if not isinstance(message, dict):
            continue
        text = "\n".join(_parts(message.get("content")))
        if message.get("role") in ("system", "developer"):
            systems.append(text)
        elif message.get("role", "user") == "user" and text:
            user = text
    return "\n".join(systems), user


def _parts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, str):
                yield part
            elif isinstance(part, dict) and isinstance(part.get("text"), str):
                yield part["text"]


def _number(body: dict[str, Any], *names: str) -> int:
    found = [value for name in names if isinstance(value := body.get(name), int)]
    return max(found, default=0)


def _asks_summary(body: dict[str, Any]) -> bool:
    reasoning, thinking = body.get("reasoning"), body.get("thinking")
    if isinstance(reasoning, dict) and reasoning.get("summary"):
        return True
    return isinstance(thinking, dict) and thinking.get("type") == "enabled"


def _ending(text: str) -> int:
    last = text.rstrip()[-1:]
    if last.isalpha():
        return 1
    if last.isdigit():
        return 2
    found = ".?!:;,\"')]}`".find(last) if last else -1
    return 0 if found < 0 else 3 + found


class Templates:
    """Tells what varies in an app's prompts from what is constant, from the last prompts of each group.

    A beginning or an end that three in four of the last prompts share is constant, until fewer do, so that an app whose
    template was edited looks the same again after some calls. Texts are kept in memory only.
    """

    RING: Final = 16
    UNSETTLED_MAX: Final = 16  # calls that are passed over while an edited template is learnt,
    UNSETTLED_PER: Final = 500  # in so many; more often it would be a way to hide
    EVERY: Final = 4  # calls, how often it is looked for
    CONSTANT_MIN: Final = 3  # letters; shorter is chance
    HEAD: Final = 2_000
    TAIL: Final = 1_000
    GROUPS_MAX: Final = 1_024

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}

    def varying(self, group: str, text: str) -> tuple[str, str] | None:
        """Return what varies of ``text``, and the constant beginning that was taken off.

        None: it does not have the group's template, which may just have been edited.
        """
        found = self._groups.pop(group, None) or _Group()
        self._groups[group] = found  # the last one used is the last one forgotten
        if len(self._groups) > self.GROUPS_MAX:
            del self._groups[next(iter(self._groups))]
        found.heads.append(text[: self.HEAD])
        found.tails.append(text[: -self.TAIL - 1 : -1])
        del found.heads[: -self.RING], found.tails[: -self.RING]
        found.seen += 1
        if found.seen % self.EVERY == 0 and len(found.heads) >= self.RING // 2:
            found.prefix = _shared(found.heads, found.prefix, self.CONSTANT_MIN)
            found.suffix = _shared(found.tails, found.suffix[::-1], self.CONSTANT_MIN)[::-1]
        prefix, suffix = found.prefix, found.suffix
        if not (text.startswith(prefix) and text.endswith(suffix)) and found.may_be_edited():
            return None
        begins = len(prefix) if text.startswith(prefix) else 0
        ends = len(text)
        if suffix and text.endswith(suffix) and ends - len(suffix) >= begins:
            ends -= len(suffix)
        return text[begins:ends], text[:begins]


class _Group:
    __slots__ = ("heads", "passed_over", "prefix", "seen", "suffix", "tails", "until")

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.tails: list[str] = []  # from the end backwards
        self.prefix = ""
        self.suffix = ""
        self.seen = 0
        self.passed_over = 0
        self.until = 0  # how many must be seen before calls are passed over anew

    def may_be_edited(self) -> bool:
        if self.seen >= self.until:
            self.until = self.seen + Templates.UNSETTLED_PER
            self.passed_over = 0
        self.passed_over += 1
        return self.passed_over <= Templates.UNSETTLED_MAX


def _shared(texts: Sequence[str], known: str, least: int) -> str:
    """Return the longest beginning that three in four of ``texts`` have, of at least ``least`` letters; "" for none.

    The known one stays while it is one of those, for chance would move its end to and fro; and while one in four have it
    and no other is found: then an edit is under way.
    """
    many, few = -(-len(texts) * 3 // 4), -(-len(texts) // 4)
    have = sum(text.startswith(known) for text in texts) if known else 0
    if have >= many:
        return known
    ordered = sorted(texts)
    best = ""
    for first, last in zip(ordered, ordered[many - 1 :], strict=False):
        if first == last:
            continue  # the same text many times says nothing of what varies
        length = 0
        for one, other in zip(first, last, strict=False):
            if one != other:
                break
            length += 1
        if length > len(best):
            best = first[:length]
    if len(best) >= least:
        return best
    return known if have >= few else ""
