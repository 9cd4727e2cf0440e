"""Lines of values: every path that tomllib sees is found, on the line where a reader would look."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upeti.control.toml_lines import lines_of

TEXT = '''\
# a comment with [brackets] and "quotes"
data_dir = "x"

[gateway]   # a table
port = 8080
host = "a # no comment [nor table]"
"quoted key" = 1
dotted.one.two = """
[[route]]
name = "not a route"
"""

[[channel]]
name = 'c1'
deployments = { "gpt-4o" = "d1", small = "d2" }

[[route]]
name = "r0"
[[route.candidate]]
channel = "c1"
[[route.candidate]]
channel = "c2"

[[route]]
name = "r1"
candidate = [
    { channel = "c1" },  # the first
    # a comment within ]
    { channel = "c3", weight = 2, order = 1 },
]
[[route]]
name = "r2"
  [[route.candidate]]
  channel = "c4"
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("data_dir", 2),
        ("gateway", 4),
        ("gateway.port", 5),
        ("gateway.quoted key", 7),
        ("gateway.dotted.one.two", 8),
        ("channel[0].name", 14),
        ("channel[0].deployments.gpt-4o", 15),
        ("route[0].name", 18),
        ("route[0].candidate[0].channel", 20),
        ("route[0].candidate[1]", 21),
        ("route[0].candidate[1].channel", 22),
        ("route[1].name", 25),
        ("route[1].candidate[0].channel", 27),
        ("route[1].candidate[1].weight", 29),
        ("route[1].candidate[1].order", 29),
        ("route[2].candidate[0].channel", 34),
    ],
)
def test_line_of_a_path(path: str, line: int) -> None:
    assert lines_of(TEXT)[path] == line


def paths_of(value: Any, path: str = "") -> set[str]:
    """Every path within what tomllib read."""
    found = {path} if path else set()
    if isinstance(value, dict):
        for name, inner in value.items():
            found |= paths_of(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            found |= paths_of(inner, f"{path}[{place}]")
    return found


def test_every_value_has_a_line() -> None:
    assert paths_of(tomllib.loads(TEXT)) <= set(lines_of(TEXT))


def test_line_ends_of_other_systems() -> None:
    assert lines_of("a = 1\r\n[b]\r\nc = 2\r\n")["b.c"] == 3


texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
keys = st.from_regex(r"\A[a-z]{1,4}\Z")


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def multiline(text: str) -> str:
    return '"""\n' + text.replace("\\", "\\\\").replace('"', '\\"') + '\n[x]"""'


values = st.recursive(
    st.one_of(texts.map(quoted), texts.map(multiline), st.integers().map(str), st.just("1979-05-27 07:32:00")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[\n" + ",\n".join(items) + "]"),
        st.dictionaries(keys, st.integers(), max_size=3).map(
            lambda table: "{" + ", ".join(f"{name} = {value}" for name, value in table.items()) + "}"
        ),
    ),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.booleans(), st.dictionaries(keys, values, max_size=3)), max_size=4))
def test_any_text_is_walked_to_its_end(tables: list[tuple[bool, dict[str, str]]]) -> None:
    """The last key is found on the last line but one, whatever strings and arrays stand before it."""
    text = ""
    for place, (several, table) in enumerate(tables):
        text += "[[many]]\n" if several else f"[t{place}]\n"
        text += "".join(f"{name} = {value} # [no.table]\n" for name, value in table.items())
    text += "[last]\nend = 1\n"
    tomllib.loads(text)
    assert lines_of(text)["last.end"] == text.count("\n")
