"""Bytes bound tokens: what every hold stands on, shown with the real byte-level tokenizer of the embedded model.

A byte-level BPE starts from single bytes and only ever merges, so it can make no more tokens than there are bytes. What a
chat template adds is not in the text; the JSON around it is longer than that.
"""

from __future__ import annotations

import json
import unicodedata
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from providers.test_embedded_server import start

INDONESIAN = "Pengguna yang membatalkan langganan sebelum masa percobaannya berakhir tidak dikenakan biaya apa pun. "
CHINESE = "在试用期结束之前取消订阅的用户不会被收取任何费用。"
EMOJI = "🙂👩‍👩‍👧‍👦🇮🇩🏳️‍🌈💸🧾"
RARE = "𒀀𒁀𒂀ꦲꦏ꧀ꦱꦫ ᬅᬓ᭄ᬱᬭ \u0000\u0007\u200b\ufffd"
CODE = "def f(x):\n\treturn {**x, 'a': [1, 2.50, None]}  # ½\r\n" * 3
SCHEMA = {
    "type": "function",
    "function": {
        "name": "cari_produk",
        "description": "Mencari produk di katalog menurut kata kunci, 价格 dan ⭐.",
        "parameters": {
            "type": "object",
            "properties": {
                "kata_kunci": {"type": "string", "description": INDONESIAN},
                "harga_maks": {"type": "number", "minimum": 0},
                "warna": {"type": "string", "enum": ["merah", "hijau", "蓝", "🟡"]},
            },
            "required": ["kata_kunci"],
        },
    },
}
TEXTS = {
    "indonesian": INDONESIAN * 5,
    "chinese": CHINESE * 5,
    "emoji": EMOJI * 5,
    "rare scripts and controls": RARE * 5,
    "code": CODE,
    "tool schema": json.dumps(SCHEMA, ensure_ascii=False),
    "tool schema, escaped": json.dumps(SCHEMA),
    "every assigned letter of the first plane": "".join(
        chr(code) for code in range(1, 0xFFFF, 7) if unicodedata.category(chr(code)) not in ("Cn", "Cs")
    ),
    "spaces": " " * 300 + "\n" * 300 + "\t" * 30,
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    process, ready = start()
    yield ready["url"]
    process.kill()
    process.communicate()


def post(url: str, body: dict[str, Any], *, ascii_only: bool = False) -> tuple[Any, int]:
    data = json.dumps(body, ensure_ascii=ascii_only).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read()), len(data)


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_has_no_more_tokens_than_bytes(url: str, name: str) -> None:
    answer, _ = post(f"{url.removesuffix('/v1')}/tokenize", {"content": TEXTS[name]})
    tokens, length = len(answer["tokens"]), len(TEXTS[name].encode())
    assert 0 < tokens <= length
    if name in ("chinese", "emoji"):
        assert tokens > len(TEXTS[name]) / 4, "letters divided by four would be too few"


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("text", ["", "Hi", INDONESIAN, CHINESE, EMOJI, RARE])
def test_a_prompt_has_no_more_tokens_than_its_body_has_bytes(url: str, text: str, ascii_only: bool) -> None:
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 1}
    answer, length = post(f"{url}/chat/completions", body, ascii_only=ascii_only)
    assert 0 < answer["usage"]["prompt_tokens"] <= length


def test_tools_and_many_messages_are_within_the_body_too(url: str) -> None:
    turns = [{"role": role, "content": text} for text in (INDONESIAN, CHINESE, EMOJI) for role in ("user", "assistant")]
    body = {"model": "m", "messages": [*turns, {"role": "user", "content": "?"}], "tools": [SCHEMA], "max_tokens": 1}
    answer, length = post(f"{url}/chat/completions", body)
    assert 0 < answer["usage"]["prompt_tokens"] <= length
