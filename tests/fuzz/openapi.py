"""Requests that schemathesis makes from verifier/openapi.json, against a live server: python -m tests.fuzz.openapi.

Every check of schemathesis but those below; exit status 1 when one fails.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import start
from tests.support import contract, forge

# Without meaning here: there is no state, no authentication but the body's own, and no object of anyone.
EXCLUDED = ("ensure_resource_availability", "use_after_free", "ignored_auth", "object_level_authorization")


def main(folder: Path) -> int:
    world = contract.World(folder / "keys")
    now = int(time.time())
    for path in (folder / "keys" / "public").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"iat": now - 60, "nbf": now - 60}))
    world.loop.close()
    log = folder / "server.log"
    server = start(
        {
            "VERIFIER_ISSUER": contract.ISSUER,
            "VERIFIER_KEYS": str(folder / "keys"),
            "VERIFIER_APPLICATION_ID": contract.APPLICATION_ID,
            "VERIFIER_SECRET_KEY": contract.SECRET,
        },
        log,
    )
    try:
        document = server.ask(method="GET", path="/openapi.json").body
        # With an example that is good now, so that 200 is among the answers.
        pair = world.pairs["ES256"]
        claims = {"iss": contract.ISSUER, "aud": contract.APPLICATION_ID, "sub": "42", "iat": now, "exp": now + 300}
        code = forge.token(pair, {"alg": pair.alg, "kid": pair.kid, "typ": "at+jwt"}, claims | {"username": "ann"})
        good = {"code": code, "secretKey": contract.SECRET, "applicationId": contract.APPLICATION_ID}
        assert server.ask(good).status == 200
        document["paths"]["/profile"]["post"]["requestBody"]["content"]["application/json"]["example"] = good
        (folder / "openapi.json").write_text(json.dumps(document))
        command = [Path(sys.executable).with_name("schemathesis"), "run", folder / "openapi.json"]
        command += ["--url", f"http://127.0.0.1:{server.port}", "--exclude-checks", ",".join(EXCLUDED)]
        command += ["--max-examples", "100", "--warnings", "off", *sys.argv[1:]]
        status = subprocess.run(list(map(str, command)), cwd=folder).returncode
    finally:
        server.stop()
    for word in ("Traceback", "bug:", contract.SECRET, *code.split(".")):
        if word in log.read_text():
            print(f"in the server's log: {word[:20]}")
            status = 1
    return status


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(Path(temporary)))
