"""What the commands about keys print on a terminal: no control character of a name, reason or replica reaches it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.support.terminal import run_in_terminal
from verifier.storage.key_directory import KeyDirectory

HOSTILE = "\x1b[31mred\x1b]0;title\x07\x9b31m\u202ereversed\x7f"
ESCAPED = "\\x1b[31mred\\x1b]0;title\\x07\\x9b31m\\u202ereversed\\x7f"
CONTROLS = [character for character in HOSTILE if not character.isprintable()]


@pytest.fixture
def keys(run) -> Path:
    assert run("keys", "generate", now=1_790_000_000).status == 0
    return Path("keys").absolute()


def shown(*words: object, name: str = "ann") -> str:
    """Everything that a command shows on a terminal."""
    environment = {"LOGNAME": name, "NO_COLOR": "1", "TERM": "dumb"}
    with run_in_terminal(*map(str, words), environment=environment) as terminal:
        text = terminal.read_until()
    return text.replace("\r\n", "\n")


def harmless(text: str) -> bool:
    return not any(character in text for character in CONTROLS)


@contextmanager
def replica(status: str) -> Iterator[str]:
    """A server whose every response has this status in its JSON."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"status": status, "version": status, "key_set_digest": status, "keys": []}).encode()
            self.send_response(503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("command", ["list", "audit", "rotate", "merge"])
def test_a_file_name_is_escaped(keys, command):
    (keys / "public" / f"{HOSTILE}.json").write_text("{")
    text = shown("keys", command, "--keys", keys)
    assert harmless(text)
    assert ESCAPED in text


@pytest.mark.parametrize("command", ["list", "rotate", "cancel", "import"])
def test_a_folder_name_is_escaped(keys, command):
    folder = keys.with_name(HOSTILE)
    shutil.copytree(keys, folder)
    words = [folder / "nothing.pem"] if command == "import" else []
    (folder / "history.jsonl").write_text("{")
    (folder / "public" / "x.json").write_text("{")
    text = shown("keys", command, *words, "--keys", folder)
    assert harmless(text)
    assert ESCAPED in text


def test_a_reason_an_account_and_a_prefix_are_escaped(keys):
    (kid,) = KeyDirectory(keys / "public").load().keys
    text = shown("keys", "revoke", "--kid", kid, "--reason", HOSTILE, "--replace", "--keys", keys, name=HOSTILE)
    assert harmless(text)
    assert f"revoked ({ESCAPED})" in text
    text = shown("keys", "revoke", "--kid", HOSTILE, "--reason", "x", "--keys", keys)
    assert harmless(text)
    assert "no key matches" in text
    for command in ("list", "audit"):
        assert harmless(shown("keys", command, "--keys", keys))


def test_a_key_of_a_document_that_is_imported_is_escaped(keys):
    document = keys.with_name("jwks.json")
    document.write_text(json.dumps({"keys": [{"kty": HOSTILE, "kid": HOSTILE, "alg": HOSTILE, "use": HOSTILE}]}))
    text = shown("keys", "import", document, "--note", HOSTILE, "--keys", keys)
    assert harmless(text)
    assert "nothing was imported" in text


def test_a_replica_and_its_url_are_escaped(keys):
    with replica(HOSTILE) as url:
        for words in (("confirm", url), ("audit", "--replica", url), ("report", "--json", "--replica", url)):
            assert harmless(shown("keys", *words, "--keys", keys))
    text = shown("keys", "confirm", f"http://{HOSTILE}", "--keys", keys)
    assert harmless(text)
    assert ESCAPED in text
