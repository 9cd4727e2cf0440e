"""A client that calls one after the other, for tests that change something meanwhile."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse

from support.upeti_process import KEY, in_background


class Caller:
    """Calls one after the other on a kept connection; notes when each was sent and who answered it."""

    def __init__(self, gateway: str, model: str = "m") -> None:
        self.seen: list[tuple[float, int, str]] = []
        self.stopped = False
        self._model = model
        self._where = urllib.parse.urlsplit(gateway).netloc
        self._thread = in_background(self._run)

    def _run(self) -> None:
        line = http.client.HTTPConnection(self._where, timeout=20)
        body = json.dumps({"model": self._model, "messages": [{"role": "user", "content": "hi"}]})
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        while not self.stopped:
            sent_s = time.monotonic()
            line.request("POST", "/v1/chat/completions", body, headers)
            answer = line.getresponse()
            answer.read()
            self.seen.append((sent_s, answer.status, str(answer.headers["x-upeti-served-by"]).partition("/")[0]))
        line.close()

    def stop(self) -> list[tuple[float, int, str]]:
        self.stopped = True
        self._thread.join()
        return self.seen
