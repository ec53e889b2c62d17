"""What a running replica has loaded, asked over HTTP."""

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from verifier.rotation import replicas
from verifier.rotation.replicas import Replica


class Handler(BaseHTTPRequestHandler):
    status = 200
    answers: Mapping[str, object]

    def do_GET(self):
        self.send_response(self.status if self.path == "/readyz" else 200)
        self.end_headers()
        self.wfile.write(json.dumps(self.answers.get(self.path)).encode())

    def log_message(self, *_):
        pass


GOOD = {"/readyz": {"status": "ready"}, "/.well-known/jwks.json": {"keys": [{"kid": "a"}], "key_set_digest": "d"}}


@pytest.fixture
def url():
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_ready_replica_names_its_keys(url, monkeypatch):
    monkeypatch.setattr(Handler, "answers", GOOD, raising=False)
    assert replicas.ask(f"{url}/") == Replica(f"{url}/", "d", ("a",), ready=True)


def test_a_replica_that_is_not_ready_answers_all_the_same(url, monkeypatch):
    monkeypatch.setattr(Handler, "answers", GOOD | {"/readyz": {"status": "not ready"}}, raising=False)
    monkeypatch.setattr(Handler, "status", 503)
    assert replicas.ask(url) == Replica(url, "d", ("a",), ready=False)


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({}, "no verifier answers (TypeError)"),
        (GOOD | {"/.well-known/jwks.json": {}}, "no verifier answers (KeyError)"),
        (GOOD | {"/.well-known/jwks.json": {"keys": [1]}}, "no verifier answers (TypeError)"),
    ],
)
def test_something_else_is_not_a_replica(url, monkeypatch, answers, problem):
    monkeypatch.setattr(Handler, "answers", answers, raising=False)
    assert replicas.ask(url) == Replica(url, problem=problem)
