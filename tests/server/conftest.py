"""A server for the cases that change nothing, requests that are good by the real clock, and reads that hang."""

import json
import threading
import time
from typing import Any

import pytest

from tests import conftest
from tests.conftest import SECRET, start
from verifier.server import reader, reload
from verifier.storage import snapshot


@pytest.fixture(scope="module")
def shared(tmp_path_factory, key_files):
    """One server for the cases that change nothing."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "public").mkdir()
    now = int(time.time())
    for name, data in key_files.items():
        (folder / "public" / name).write_text(json.dumps(json.loads(data) | {"nbf": now - 100}))
    running = start(
        {
            "VERIFIER_ISSUER": conftest.ISSUER,
            "VERIFIER_KEYS": str(folder),
            "VERIFIER_APPLICATION_ID": conftest.APPLICATION_ID,
            "VERIFIER_SECRET_KEY": SECRET,
        },
        folder / "server.log",
    )
    yield running
    assert running.stop() == 0
    log = (folder / "server.log").read_text()
    assert "Traceback" not in log
    assert SECRET not in log
    assert "ann@example.com" not in log


@pytest.fixture
def live(pairs, claims):
    """A body that is good by the real clock."""
    from tests.support import forge

    def live(**changes):
        now = int(time.time())
        header = {"alg": "ES256", "kid": pairs["ES256"].kid, "typ": "at+jwt"}
        code = forge.token(pairs["ES256"], header, forge.changed(claims | {"iat": now, "exp": now + 300}, changes))
        return {"code": code, "secretKey": SECRET, "applicationId": conftest.APPLICATION_ID}

    return live


class Disk:
    """Reads that hang until they are let go."""

    def __init__(self) -> None:
        self.hangs = False
        self.hung = threading.Event()  # a read does
        self.freed = threading.Event()
        self.path = ""  # of the files that cannot be read; "": of all

    def read(self, path: Any, max_bytes: int, read_file: Any = snapshot.read_file) -> bytes:
        if self.hangs and self.path in str(path):
            self.hung.set()
            self.freed.wait(30)
        return bytes(read_file(path, max_bytes))


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(snapshot, "SETTLED_S", 1e9)  # nothing is taken from the cache
    monkeypatch.setattr(snapshot, "read_file", disk.read)
    monkeypatch.setattr("verifier.server.applications_file.read_file", disk.read)
    monkeypatch.setattr(reader, "RELOAD_INTERVAL_S", 0.02)
    monkeypatch.setattr(reader, "READ_TIMEOUT_S", 0.5)
    monkeypatch.setattr(reload, "CURRENT_S", 0.1)
    monkeypatch.setattr(reload, "CATCH_UP_S", 0.1)
    yield disk
    disk.freed.set()
