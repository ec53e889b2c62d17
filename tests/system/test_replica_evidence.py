"""A rotation with three replicas, each with another fault: the first screen of the page shows each and its cause."""

import json
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.conftest import free_port, start
from tests.support import chromium
from tests.support.asgi import verifier

SCREEN = """
[...document.querySelectorAll(".verdict.fail")].map(e => ({
  text: e.innerText, bottom: e.getBoundingClientRect().bottom, colour: getComputedStyle(e.children[0]).color}))
"""
RED = {"light": "rgb(194, 28, 41)", "dark": "rgb(255, 123, 114)"}


@contextmanager
def shifted(port: int, seconds: int) -> Iterator[str]:
    """Serve what a replica serves, with the `Date` of a host whose clock is off."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                response = urllib.request.urlopen(f"http://127.0.0.1:{port}{self.path}", timeout=10)
            except urllib.error.HTTPError as error:
                response = error  # /readyz that is not ready
            with response:
                content = response.read()
            self.send_response_only(response.status)
            self.send_header("Content-Type", response.headers["Content-Type"])
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Date", formatdate(time.time() + seconds, usegmt=True))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", free_port()), Handler) as proxy:
        thread = Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            proxy.shutdown()
            thread.join()


@pytest.fixture
def replicas(game: Path, game_environment: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """After a rotation: a replica whose clock is a minute fast, one with the old keys, and a dead one; by fault."""
    shutil.copytree(game / "keys" / "public", tmp_path / "old" / "public")
    verifier("keys", "rotate", cwd=game, check=True)
    good = start(game_environment, tmp_path / "good.log")
    try:
        old = start(game_environment | {"VERIFIER_KEYS": str(tmp_path / "old")}, tmp_path / "old.log")
        try:
            with shifted(good.port, 60) as fast:
                yield {
                    "clock": fast,
                    "keys": f"http://127.0.0.1:{old.port}",
                    "response": f"http://127.0.0.1:{free_port()}",
                }
        finally:
            old.stop()
    finally:
        good.stop()


def test_each_replica_with_a_fault_is_red_on_the_first_screen_with_its_cause(game, replicas, tmp_path):
    options = [word for url in replicas.values() for word in ("--replica", url)]
    [pending] = [key["kid"] for key in list_keys(game) if key["state"] == "pending"]
    causes = {
        "clock": r"its clock is (59|60|61) s fast, at most 15 s",
        "keys": f"lacks pending {pending}",
        "response": r"connection refused: nothing listens on 127\.0\.0\.1 port \d+",
    }

    done = verifier("keys", "report", "--json", *options, cwd=game)
    document = json.loads(done.stdout)
    assert (done.returncode, document["failed"], document["worst"]["severity"]) == (1, True, "high")
    assert [finding["rule"] for finding in document["findings"]] == [
        "replica-response",
        "replica-keys",
        "replica-clock",
    ]
    for replica, (fault, url) in zip(document["replicas"], replicas.items(), strict=True):
        assert (replica["url"], replica["violations"]) == (url, [f"replica-{fault}"])
        assert re.fullmatch(causes[fault], "; ".join(replica["found"]))
    audited = verifier("keys", "audit", *options, cwd=game)
    assert (audited.returncode, audited.stdout.count("high      replica-")) == (1, 3)
    confirmed = verifier("keys", "confirm", *replicas.values(), cwd=game)
    assert (confirmed.returncode, confirmed.stdout.count("FAIL  ")) == (1, 3)

    html = tmp_path / "report.html"
    done = verifier("keys", "report", "--html", html, *options, cwd=game)
    assert (done.returncode, done.stdout) == (1, f"{html}: 2 key(s), 3 finding(s)\n")
    if chromium.BROWSER is None:
        pytest.skip("the page needs Chromium (Debian: chromium)")
    page = chromium.Page(tmp_path / "profile")
    try:
        page.open(html.as_uri())
        for width, scheme in ((375, "light"), (375, "dark"), (1024, "light"), (1600, "dark")):
            page.show(width=width, scheme=scheme)
            found = page.evaluate(SCREEN)
            assert len(found) == 3
            for shown, (fault, url) in zip(found, replicas.items(), strict=True):
                assert re.fullmatch(f"Replica {url}: {causes[fault]}", shown["text"])
                assert shown["colour"] == RED[scheme]
                assert shown["bottom"] <= 800
    finally:
        page.close()


def list_keys(game: Path) -> list[dict[str, str]]:
    keys: list[dict[str, str]] = json.loads(verifier("keys", "list", "--json", cwd=game).stdout)["keys"]
    return keys
