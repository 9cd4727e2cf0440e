"""Reading upeti.toml: what is wrong, on which line, with which cure, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from upeti.control.config_file import load, parse, read
from upeti.core.errors import ConfigError

SOUND = """\
data_dir = "data"

[[channel]]
name = "local"
kind = "embedded"

[[channel]]
name = "openai"
kind = "openai_compatible"
base_url = "https://api.openai.com/v1"
api_key = "file:secrets/openai"

[[route]]
name = "small"
[[route.candidate]]
channel = "local"
model = "smollm2-135m"

[[key]]
id = "k1"
tenant = "acme"
sha256 = "{digest}"
limit = "10.50"
routes = ["small"]
""".format(digest="0" * 64)


def problems(text: str, path: Path = Path("upeti.toml")) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, path)
    return str(caught.value).split("\n")


LAST = SOUND.count("\n")


def changed(old: str, new: str) -> str:
    assert SOUND.count(old) == 1
    return SOUND.replace(old, new)


def test_paths_become_absolute(tmp_path: Path) -> None:
    file = tmp_path / "upeti.toml"
    file.write_text(SOUND)
    config = load(file)
    assert config.data_dir == str(tmp_path / "data")
    assert config.channel[1].api_key == f"file:{tmp_path}/secrets/openai"
    assert config.key[0].limit == "10.50"


def test_missing_file_names_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no such file; `upeti init` makes one"):
        read(tmp_path / "none.toml")


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "upeti.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read(tmp_path / "upeti.toml")


def test_no_toml() -> None:
    (found,) = problems("a = 1\nb = \n")
    assert found.startswith("upeti.toml:2: this is not TOML: Invalid value; ")


def test_open_string_at_the_end() -> None:
    (found,) = problems('a = 1\nb = """x\n')
    assert found.startswith("upeti.toml:3: this is not TOML: Unterminated string; ")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            changed('kind = "embedded"', 'kind = "embeded"'),
            "upeti.toml:5: channel[0].kind: not one of its values; "
            "choose from openai_compatible, azure, anthropic, embedded, student, perhaps `embedded`",
        ),
        (
            changed('kind = "embedded"', 'kind = "embedded"\nbaseurl = "x"'),
            "upeti.toml:6: unknown field `channel[0].baseurl`; did you mean `base_url`?",
        ),
        (
            changed('limit = "10.50"', "limit = 10.50"),
            'upeti.toml:23: key[0].limit: expected str, got float; write the amount as a string: limit = "10.50"',
        ),
        (
            changed('channel = "local"\nmodel', "model"),
            "upeti.toml:15: route[0].candidate[0] has no `channel`; add `channel = …` (Name of a channel)",
        ),
        (
            changed('name = "local"', 'name = "lo cal"'),
            "upeti.toml:4: channel[0].name: this text does not have the right form; "
            "use 1 to 128 letters, digits and _ . : / -",
        ),
        (
            changed('[[route]]\nname = "small"\n[[route.candidate]]', "[route]\nname = 'small'\n[route.candidate]"),
            "upeti.toml:13: route is no list of tables; begin each one with [[route]]",
        ),
        (
            changed('routes = ["small"]', 'routes = ["small", 3]'),
            "upeti.toml:24: key[0].routes[1]: expected str, got int; Routes the key may use",
        ),
    ],
)
def test_shape(text: str, found: str) -> None:
    assert problems(text) == [found]


def test_a_pasted_secret_is_not_echoed() -> None:
    (found,) = problems(changed('"file:secrets/openai"', '"sk-planted-canary"'))
    assert found.startswith("upeti.toml:11: channel[1].api_key: ")
    assert "never the key itself" in found
    assert "canary" not in found


@pytest.mark.parametrize(
    ("text", "line", "what", "cure"),
    [
        (
            SOUND + '[[budget]]\nname = "b"\nlimit = "1"\n[[budget]]\nname = "b"\nlimit = "1"\n',
            LAST + 5,
            "a second budget with the name `b`",
            "the first is budget[0]: rename one",
        ),
        (
            SOUND + '[[budget]]\nname = "b"\nlimit = "1"\nzone = "Asia/Djakarta"\n',
            LAST + 4,
            "budget `b`: there is no time zone `Asia/Djakarta`",
            "write it like Asia/Jakarta or UTC (the IANA time zone database)",
        ),
        (
            SOUND + '[[budget]]\nname = "key:k1"\nlimit = "1"\n',
            LAST + 2,
            "budget `key:k1`: `key:` begins the names of keys' own limits",
            "choose another",
        ),
        (
            SOUND + '[[budget]]\nname = "b"\nlimit = "-1"\n',
            LAST + 3,
            "budget `b`: a limit below zero",
            "give what may be spent in a window",
        ),
        (
            SOUND + '[[rate_limit]]\nname = "r"\n',
            LAST + 1,
            "rate limit `r` limits nothing",
            "add calls_per_minute, or tokens_per_minute, or both",
        ),
        (
            SOUND + '[alerts]\nsecret = "env:HOOK"\n',
            LAST + 2,
            "`secret` without `webhook`",
            "add `webhook`, or leave it out",
        ),
        (
            SOUND + '[alerts]\nwebhook = "hooks.example.com"\n',
            LAST + 2,
            "`webhook` is no address",
            "write it like https://example.com/hook",
        ),
        (
            changed('channel = "local"', 'channel = "lokal"'),
            16,
            "route `small`: there is no channel `lokal`",
            "did you mean `local`?",
        ),
        (
            changed('name = "openai"', 'name = "local"'),
            8,
            "a second channel with the name `local`",
            "the first is channel[0]: rename one",
        ),
        (
            changed('kind = "embedded"', 'kind = "azure"\nentra = true'),
            3,
            "channel `local` has no `base_url`",
            'add base_url = "https://NAME.openai.azure.com"',
        ),
        (
            changed("https://api.openai.com/v1", "api.openai.com/v1"),
            10,
            "channel `openai`: `base_url` is no address",
            "write it like https://api.openai.com/v1, without user, query or fragment",
        ),
        (
            changed('routes = ["small"]', 'routes = ["smal"]'),
            24,
            "key `k1`: there is no route `smal`",
            "did you mean `small`?",
        ),
        (
            changed('"10.50"', '"-1"'),
            23,
            "key `k1`: a limit below zero",
            "give what the key may spend in all; empty is no limit",
        ),
        (
            changed('"10.50"', '"ten"'),
            23,
            "key `k1`: 'ten' is not a decimal number",
            'write it like limit = "10.50"',
        ),
        (
            changed('sha256 = "' + "0" * 64 + '"\n', ""),
            19,
            "key `k1` has neither `sha256` nor `secret`",
            'give one: sha256 = "…" or secret = "env:NAME", or make the key with `upeti keys create`',
        ),
        (
            changed('kind = "embedded"', 'kind = "embedded"\nentra = true'),
            6,
            "channel `local`: `entra` is for channels of kind `azure`",
            "leave it out, or change the kind",
        ),
        (
            changed('kind = "openai_compatible"', f'kind = "openai_compatible"\nmodel_file = "{__file__}"'),
            10,
            "channel `openai`: `model_file` is for channels of kind `embedded` that have no `base_url`",
            "leave it out, or change the kind",
        ),
        (
            changed('kind = "embedded"', f'kind = "embedded"\nmodel_file = "{__file__}"'),
            6,
            f"channel `local`: {__file__} is no .gguf file",
            "name the .gguf file that `train_generative` has written, or another one",
        ),
        (
            changed('kind = "embedded"', 'kind = "azure"\nbase_url = "https://x.openai.azure.com"'),
            3,
            "channel `local` has neither `api_key` nor `entra`",
            'add api_key = "env:AZURE_OPENAI_API_KEY", or entra = true',
        ),
        (
            changed('kind = "embedded"', 'kind = "anthropic"'),
            3,
            "channel `local` has no `api_key`",
            'add api_key = "env:ANTHROPIC_API_KEY"',
        ),
        (
            SOUND + "[gateway]\nport = 8081\n",
            26,
            "gateway and control have the same port",
            "choose another; 0 takes a free one",
        ),
        (
            SOUND + '[gateway]\ndefault_channel = "opena"\n',
            26,
            "there is no channel `opena`",
            "did you mean `openai`?",
        ),
    ],
)
def test_names_that_do_not_fit(text: str, line: int, what: str, cure: str) -> None:
    assert problems(text) == [f"upeti.toml:{line}: {what}; {cure}"]


def test_tls_needs_both_files(tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    certificate.touch()
    text = SOUND + f'[gateway]\ntls_certificate = "{certificate}"\n'
    assert problems(text) == ["upeti.toml:26: `tls_certificate` without `tls_key`; add `tls_key`, or leave both out"]


def test_named_files_exist() -> None:
    (found,) = problems(SOUND + '[money]\nprice_files = ["none.json"]\n')
    assert found.startswith("upeti.toml:26: there is no file ")
    assert found.endswith("none.json; correct the path; it is relative to this file")


def test_data_dir_must_leave_room_for_the_socket() -> None:
    (found,) = problems(changed('"data"', f'"/{"d" * 100}"'))
    assert found.startswith("upeti.toml:1: data_dir is too long")


def test_everything_wrong_is_said_at_once_in_the_order_of_the_file() -> None:
    text = changed('channel = "local"', 'channel = "a"').replace('"10.50"', '"x"') + "[control]\nport = 8080\n"
    assert [found.split(":")[1] for found in problems(text)] == ["16", "23", "26"]
    text = text.replace("port = 8080", "prt = 1").replace("data_dir =", "datadir =")
    assert [found.split(":")[1] for found in problems(text)] == ["1", "26"]
