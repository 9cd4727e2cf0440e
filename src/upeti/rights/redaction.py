"""Redaction: what identifies a person, or opens a door, is taken out of a body before it is stored.

Rules: a body is JSON and stays JSON; every text in it is looked at, keys of objects too, and numbers long enough to be
one. What is found becomes a placeholder such as ``[EMAIL_1]``; within one pair the same value gets the same placeholder,
in the question as in the answer. Redacting again changes nothing. Rules find forms, not meanings: a name in a sentence
has no form, which is what the optional ``presidio`` finders are for. Pure.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Address
from typing import Any, Final, NamedTuple, Protocol

from upeti.core.errors import ConfigError

_NUMBER_DIGITS_MIN: Final = 8  # a shorter number is no telephone's
_DEPTH_MAX: Final = 200  # JSON of the wires has a dozen levels; a deeper one is not kept


class Rule(NamedTuple):
    """What is found, by its form. ``accept`` looks at what the pattern found (a checksum, a plausible date) and says
    whether it is one, or how many of its letters are.
    """

    kind: str
    pattern: re.Pattern[str]
    accept: Callable[[str], int | bool] = len


class Finder(Protocol):
    """Something else that finds what is to be redacted: (start, end, kind) of each place in a text."""

    def __call__(self, text: str) -> Iterable[tuple[int, int, str]]: ...


class NotRedactableError(ValueError):
    """A body that is no JSON, or nested too deeply: it cannot be redacted with certainty, so it is not kept."""


def _digits(text: str) -> str:
    return "".join(one for one in text if one.isdigit())


def _luhn(text: str) -> bool:
    digits = [int(one) for one in _digits(text)]
    doubled = [sum(divmod(2 * one, 10)) for one in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _iban(text: str) -> int:
    """The pattern may have taken the next word too, so shorter ones are tried."""
    for end in (end for end in range(len(text), 14, -1) if text[end - 1] != " "):
        letters = text[:end].replace(" ", "")
        turned = letters[4:] + letters[:4]
        if 15 <= len(letters) <= 34 and int("".join(str(int(one, 36)) for one in turned)) % 97 == 1:
            return end
    return 0


def _nik(text: str) -> bool:
    """Indonesia's number of residents: province, place, day (women 40 more), month, year, running number."""
    digits = _digits(text)
    day, month = int(digits[6:8]), int(digits[8:10])
    return 11 <= int(digits[:2]) <= 96 and 1 <= (day - 40 if day > 40 else day) <= 31 and 1 <= month <= 12


def _phone(text: str) -> bool:
    return 8 <= len(_digits(text)) <= 15  # E.164 ends at 15


def _ipv6(text: str) -> int:
    try:
        IPv6Address(text)
    except ValueError:
        return 0
    return len(text)


def _ipv4(text: str) -> bool:
    return all(int(part) <= 255 for part in text.split("."))


# In the order in which they look: a longer or surer form first. A value that one has found, no other sees.
RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "PRIVATE_KEY", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)")
    ),
    Rule("JWT", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")),
    Rule(
        "SECRET",
        re.compile(
            r"\b(?:sk-[A-Za-z0-9_-]{8,}|upeti-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}"
            r"|xox[abeprs]-[A-Za-z0-9-]{8,}|A[KS]IA[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{30,}|glpat-[A-Za-z0-9_-]{16,}"
            r"|npm_[A-Za-z0-9]{30,}|hf_[A-Za-z0-9]{20,}|gsk_[A-Za-z0-9]{20,}|xai-[A-Za-z0-9]{20,}"
            r"|(?:rk|pk|sk)_(?:live|test)_[A-Za-z0-9]{10,})"
        ),
    ),
    Rule("SECRET", re.compile(r"(?<=[Bb]earer )[A-Za-z0-9._~+/-]{16,}=*")),
    Rule("SECRET", re.compile(r"(?<=://)[^\s/:@\[\]]+:[^\s/:@]+(?=@)")),  # user:password of an address
    Rule("EMAIL", re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)+")),
    Rule("IBAN", re.compile(r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}\b"), _iban),
    Rule("IPV6", re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:|::?){2,8}[0-9A-Fa-f]{0,4}(?![\w:])"), _ipv6),
    Rule("IPV4", re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w.])"), _ipv4),
    Rule("CARD", re.compile(r"(?<![\w-])[0-9](?:[ -]?[0-9]){12,18}(?![\w-])"), _luhn),
    Rule("NIK", re.compile(r"(?<![\w-])[0-9]{16}(?![\w-])"), _nik),
    Rule("PHONE", re.compile(r"(?<![\w+])\+[0-9](?:[ ().-]{0,2}[0-9]){7,14}(?!\w)"), _phone),
    # Indonesian numbers without the country's code, and others written with blanks or strokes.
    Rule("PHONE", re.compile(r"(?<!\w)(?:\(?0[0-9]{1,4}\)?)(?:[ .-]?[0-9]){6,11}(?!\w)"), _phone),
    Rule("PHONE", re.compile(r"(?<!\w)\(?[0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{4}(?!\w)"), _phone),
)
# Pictures and sounds; no text has a word of 512 letters.
_DATA: Final = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,[A-Za-z0-9+/=_-]+|[A-Za-z0-9+/_-]{512,}={0,2}")
_PLACEHOLDER: Final = re.compile(r"\[[A-Z][A-Z0-9_]*_[0-9]+\]")


def own_rule(kind: str, pattern: str) -> Rule:
    """Return a rule of the configuration's. Raises ``ConfigError`` for a pattern that is none, or finds everything."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"the pattern of the redaction rule `{kind}` is none: {error}") from None
    if compiled.match(""):
        raise ConfigError(f"the pattern of the redaction rule `{kind}` finds nothing at all everywhere: {pattern}")
    return Rule(kind.upper(), compiled)


class Redactor:
    """Redacts bodies by the shipped rules, those of one's own, and other finders."""

    def __init__(self, own: Sequence[Rule] = (), finders: Sequence[Finder] = ()) -> None:
        self._rules = (*own, *RULES)
        self._finders = tuple(finders)

    def pair(self) -> Pass:
        """Return what redacts the bodies of one pair: equal values become equal placeholders."""
        return Pass(self._rules, self._finders)


class Pass:
    """One pair on its way through. ``counts`` says how many different values of each kind there were."""

    def __init__(self, rules: Sequence[Rule], finders: Sequence[Finder]) -> None:
        self._rules = rules
        self._finders = finders
        self._names: dict[str, str] = {}  # value → placeholder
        self.counts: Counter[str] = Counter()

    def body(self, data: bytes) -> bytes:
        """Return a JSON body, redacted. Raises ``NotRedactableError``."""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            raise NotRedactableError("the body is no JSON") from None
        return self.value(value)

    def value(self, value: Any) -> bytes:
        """Return a value as JSON, redacted. Raises ``NotRedactableError``."""
        return json.dumps(self._walk(value, 0), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

    def text(self, text: str) -> str:
        """Return a text, redacted."""
        text = _DATA.sub(lambda found: self._placeholder("DATA", found[0]), text)
        for rule in self._rules:
            text = self._apply(rule, text)
        for finder in self._finders:
            text = self._find(finder, text)
        return text

    def _walk(self, value: Any, depth: int) -> Any:
        if depth > _DEPTH_MAX:
            raise NotRedactableError("the body is nested too deeply")
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._walk(one, depth + 1) for one in value]
        if isinstance(value, dict):
            return {self.text(name): self._walk(one, depth + 1) for name, one in value.items()}
        if isinstance(value, int) and not isinstance(value, bool) and len(str(value)) >= _NUMBER_DIGITS_MIN:
            redacted = self.text(str(value))
            return value if redacted == str(value) else redacted
        return value

    def _apply(self, rule: Rule, text: str) -> str:
        def replaced(found: re.Match[str]) -> str:
            value = found[0]
            letters = 0 if _PLACEHOLDER.search(value) else _letters(rule.accept(value), value)
            return self._placeholder(rule.kind, value[:letters]) + value[letters:] if letters else value

        return rule.pattern.sub(replaced, text)

    def _find(self, finder: Finder, text: str) -> str:
        made: list[str] = []
        end = 0
        for start, stop, kind in sorted(finder(text)):
            if start < end or _PLACEHOLDER.search(text[max(0, start - 1) : stop + 1]):
                continue
            made += [text[end:start], self._placeholder(kind, text[start:stop])]
            end = stop
        return "".join((*made, text[end:]))

    def _placeholder(self, kind: str, value: str) -> str:
        known = self._names.get(value)
        if known is None:
            self.counts[kind] += 1
            known = self._names[value] = f"[{kind}_{self.counts[kind]}]"
        return known


def _letters(accepted: int | bool, value: str) -> int:
    return (len(value) if accepted else 0) if isinstance(accepted, bool) else accepted
