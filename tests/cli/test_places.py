"""What reports read of a configuration that somebody is editing."""

from __future__ import annotations

from upeti.cli.places import channels_in, routes_in


def test_channels_and_routes() -> None:
    values = {
        "channel": [
            {
                "name": "a",
                "kind": "azure",
                "base_url": "https://X.openai.azure.com",
                "zone": "data_zone_eu",
                "account": "sub-1",
            },
            {"name": "o", "kind": "openai_compatible"},
            {"name": "own", "kind": "openai_compatible", "base_url": "http://llm:8000/v1", "prices": "local"},
        ],
        "route": [{"name": "m", "candidate": [{"channel": "a"}, {"channel": "o"}]}],
    }
    found = channels_in(values)
    assert found["a"] == ("azure", "x.openai.azure.com", "azure", "data_zone_eu", "sub-1")
    assert found["o"] == ("openai_compatible", "api.openai.com", "openai", "", "")
    assert found["own"] == ("openai_compatible", "llm", "local", "", "")
    assert routes_in(values) == {"m": ["a", "o"]}


def test_nonsense_is_nothing() -> None:
    assert channels_in({"channel": 5}) == {}
    assert channels_in({"channel": ["x", {"kind": "unheard"}]})[""].part == ""
    assert routes_in({"route": [{"name": "m"}]}) == {"m": []}
