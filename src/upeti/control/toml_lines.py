"""Where in a TOML text a value stands, so that an error can name its line.

``tomllib`` says what a file means, not where. This walks a text that ``tomllib`` has already taken, so it
may assume valid TOML and only keeps count. Paths look like ``route[1].candidate[0].channel``.
"""

from __future__ import annotations

import re
from bisect import bisect_left

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}\n#]*")
_STRINGS = (
    re.compile(r'"""(?:\\.|[^\\])*?"{3,5}', re.S),
    re.compile(r"'''.*?'{3,5}", re.S),
    re.compile(r'"(?:\\.|[^"\\])*"'),
    re.compile(r"'[^']*'"),
)


def lines_of(text: str) -> dict[str, int]:
    """Return the line, from 1, at which every table, key and array element of ``text`` begins.

    ``text`` is valid TOML; for another text the answer is of no use.
    """
    return _Walk(text).lines()


class _Walk:
    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._ends = [match.start() for match in re.finditer("\n", self._text)]
        self._lines: dict[str, int] = {}
        self._counts: dict[str, int] = {}  # elements so far of each array of tables

    def lines(self) -> dict[str, int]:
        table = ""
        while self._skip(_SPACE) < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    def _header(self) -> str:
        start = self._at
        several = self._text.startswith("[[", start)
        self._at += 2 if several else 1
        path = ""
        keys = self._keys()
        for place, key in enumerate(keys):
            path = _join(path, key)
            last = place == len(keys) - 1
            if last and several:
                self._note(path, start)
                self._counts[path] = self._counts.get(path, 0) + 1
            if path in self._counts:
                path = f"{path}[{self._counts[path] - 1}]"
            self._note(path, start)
        self._at += 2 if several else 1
        return path

    def _pair(self, table: str) -> None:
        start = self._at
        path = table
        for key in self._keys():
            path = _join(path, key)
            self._note(path, start)
        self._at += 1  # the equals sign
        self._value(path)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_BLANK)
            if self._text[self._at] in "\"'":
                keys.append(self._string()[1:-1])
            else:
                match = _BARE_KEY.match(self._text, self._at)
                assert match is not None, "the text is no TOML"
                self._at = match.end()
                keys.append(match.group())
            self._skip(_BLANK)
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _value(self, path: str) -> None:
        self._skip(_SPACE)
        first = self._text[self._at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        else:
            self._skip(_SCALAR)

    def _array(self, path: str) -> None:
        self._at += 1
        count = 0
        while self._text[self._skip(_SPACE)] != "]":
            element = f"{path}[{count}]"
            self._note(element, self._at)
            self._value(element)
            count += 1
            self._comma()
        self._at += 1

    def _inline_table(self, path: str) -> None:
        self._at += 1
        while self._text[self._skip(_SPACE)] != "}":
            self._pair(path)
            self._comma()
        self._at += 1

    def _comma(self) -> None:
        if self._text[self._skip(_SPACE)] == ",":
            self._at += 1

    def _string(self) -> str:
        for pattern in _STRINGS:
            match = pattern.match(self._text, self._at)
            if match is not None:
                self._at = match.end()
                return match.group()
        raise AssertionError("the text is no TOML")

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return self._at

    def _note(self, path: str, at: int) -> None:
        self._lines.setdefault(path, bisect_left(self._ends, at) + 1)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
