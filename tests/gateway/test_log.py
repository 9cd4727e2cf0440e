"""One line per event, whatever is in it."""

from __future__ import annotations

import json

import pytest

from upeti.gateway.log import Log


def test_an_event_is_one_line_of_json(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    log = Log("w0-1", lambda: 1_500_000_000)
    log.info("started", "hello")
    log.warning("odd", 'a "quote",\na line\r\nand \x1b[31m colour', call="req_1", count=3)
    log.error("crashed", "漢字 🙂", trace=None)
    lines = capfdbinary.readouterr().err.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"at_s": 1.5, "level": "info", "event": "started", "message": "hello", "instance": "w0-1"},
        {
            "at_s": 1.5,
            "level": "warning",
            "event": "odd",
            "message": 'a "quote",\na line\r\nand \x1b[31m colour',
            "instance": "w0-1",
            "call": "req_1",
            "count": 3,
        },
        {"at_s": 1.5, "level": "error", "event": "crashed", "message": "漢字 🙂", "instance": "w0-1", "trace": None},
    ]
    assert not any(byte < 32 for line in lines for byte in line)
