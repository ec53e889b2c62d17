"""A server for the cases that change nothing, and requests that are good by the real clock."""

import json
import time

import pytest

from tests import conftest
from tests.conftest import SECRET, start


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
