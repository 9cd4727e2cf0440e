from __future__ import annotations

import time
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from support.keeper_side import until
from support.upeti_process import CONFIG, upeti_process
from upeti.control.feed_service import FeedKeys
from upeti.control.keys import KeyRequest, make_key
from upeti.control.store import Store
from upeti.core.config import Config, Key
from upeti.core.errors import Unauthenticated


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
