from __future__ import annotations

import time
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from support.feed_side import feed_server
from support.keeper_side import until
from support.upeti_process import CONFIG, upeti_process
from upeti.control.cases import decide, open_case
from upeti.control.feed_service import FeedKeys
from upeti.control.keys import KeyRequest, make_key
from upeti.control.store import Store
from upeti.core.config import Conduct, Config, Key
from upeti.core.errors import Forbidden, Unauthenticated
from upeti.rights.conduct.case import Event


def digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


def test_a_key_says_whose_feed_it_is_until_it_is_revoked_or_expires(tmp_path: Path) -> None:
    store = Store(tmp_path)
    now_s = [time.time()]
    in_file = Key("k1", "beta", sha256=sha256(b"of the file").hexdigest())
    keys = FeedKeys(store, Config(key=(in_file,)), lambda: now_s[0])
    assert keys(digest("of the file")) == "beta"
    key, row = make_key(KeyRequest("acme", expires="1h"))
    store.add_key(row)
    now_s[0] += 1
    assert keys(digest(key)) == "acme"
    other, other_row = make_key(KeyRequest("acme"))
    store.add_key(other_row)
    store.revoke_key(other_row.id)
    now_s[0] += 3600
    for wrong in (key, other, "guess"):
        with pytest.raises(Unauthenticated):
            keys(digest(wrong))


def test_a_suspended_tenant_is_told_why_and_is_served_again_when_the_case_ends(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rules = Conduct(appeal_contact="appeals@example.com")
    in_file = [Key(name, name, sha256=sha256(name.encode()).hexdigest()) for name in ("acme", "beta")]
    now_s = [time.time()]
    keys = FeedKeys(store, Config(key=tuple(in_file), conduct=rules), lambda: now_s[0])
    assert keys(digest("acme")) == "acme"
    case = open_case(store, tmp_path, "acme", "conduct", {"what": "it harvests", "p": 0.001}, family="drift")
    for step, told in (
        (Event.SUSPEND, "case C-000001"),
        (Event.APPEAL, "Your appeal is decided by"),
        (Event.CLOSE, ""),
    ):
        decide(store, tmp_path, case, step, person="head of legal", why="it harvests", settings=rules)
        now_s[0] += 1  # within a second
        assert keys(digest("beta")) == "beta"
        if not told:
            assert keys(digest("acme")) == "acme"
            return
        with pytest.raises(Forbidden, match=told) as refused:
            keys(digest("acme"))
        assert (refused.value.status, refused.value.code) == (403, "tenant_suspended")
        assert "appeals@example.com" in refused.value.message


def test_a_suspended_tenant_gets_403_from_the_service(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rules = Conduct(appeal_contact="appeals@example.com")
    in_file = Key("k", "acme", sha256=sha256(b"secret").hexdigest())
    keys = FeedKeys(store, Config(key=(in_file,), conduct=rules))
    with feed_server(tmp_path, keys=keys) as server:
        assert server.call("POST", "/api/item", {"ItemId": "a"}, key="secret")[0] == 200
        case = open_case(store, tmp_path, "acme", "conduct", {"what": "it harvests", "p": 0.001}, family="drift")
        decide(store, tmp_path, case, Event.SUSPEND, person="head of legal", why="it harvests", settings=rules)
        until(lambda: server.call("GET", "/v1/feed?user=u", key="secret")[0] == 403)
        for method, path in (("GET", "/v1/feed?user=u"), ("GET", "/api/recommend/u"), ("DELETE", "/api/item/a")):
            status, answer = server.call(method, path, key="secret")
            assert (status, answer["error"]["code"]) == (403, "tenant_suspended")
        decide(store, tmp_path, case, Event.CLOSE, person="head of legal", why="it has stopped", settings=rules)
        until(lambda: server.call("GET", "/v1/feed?user=u", key="secret")[0] == 200)


def test_upeti_serve_serves_feeds_too(tmp_path: Path) -> None:
    with upeti_process(tmp_path, CONFIG + "\n[feed]\nenabled = true\nport = 0\nembed = false\n") as process:
        process.start()
        address = process.data_dir / "run" / "feed-address"
        until(address.exists, seconds=60)
        store = Store(process.data_dir)
        key, row = make_key(KeyRequest("acme"))
        store.add_key(row)
        url = f"http://{address.read_text().strip()}"
        with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, verify=False) as client:
            until(lambda: _status(client, "/v1/status") == 200, seconds=60)
            assert client.post("/api/item", json={"ItemId": "a"}).json() == {"RowAffected": 1}
            assert [one["item"] for one in client.get("/v1/feed?user=u").json()["items"]] == ["a"]


def _status(client: httpx.Client, path: str) -> int:
    try:
        return client.get(path).status_code
    except httpx.HTTPError:
        return 0
