"""Canaries: unique values go through the server and the commands, and nothing that either wrote may hold them.

Searched for: tokens and their parts, secrets, player ids, e-mails, usernames and private keys, as they are and
in base64, base64url, hexadecimal, percent-encoding and JSON escapes.
"""

import base64
import binascii
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests import conftest
from tests.conftest import APPLICATION_ID, ISSUER, NOW
from tests.support import forge

SECRET = "canary-secret-Kq7$w+Zx9/r"
OLD_SECRET = "canary-old-secret-Vb3=t~Yp5"
PERSONAL = {
    "sub": "canary-player-Ünïq-8h2",
    "email": "canary.mail+4f@inbox.example",
    "username": "canary-name-😀-6j1",
}


def spellings(value: str | bytes) -> set[bytes]:
    """What to look for: the value in every form a log, a page or a file could give it."""
    data = value.encode() if isinstance(value, str) else value
    found = {data, data.hex().encode(), data.hex().upper().encode(), data[::-1]}
    found |= {b"".join(form % byte for byte in data) for form in (b"%%%02X", b"%%%02x", b"\\x%02x")}
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    for safe in (plain + b"-_.~", plain + b"-_.~/", plain + b"-_.~@+", plain + b"-_.+*"):
        found.add(b"".join(bytes([byte]) if byte in safe else b"%%%02X" % byte for byte in data))
    if isinstance(value, str):
        escaped = json.dumps(value)[1:-1]
        found |= {escaped.encode(), escaped.replace("/", "\\/").encode(), ascii(value)[1:-1].encode()}
        found |= {value.encode("utf-16-le"), value.encode("utf-16-be")}
    for before in range(3):
        # In base64 the first and last characters also hold bits of the neighbours.
        text = base64.b64encode(bytes(before) + data)
        text = text[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        found |= {text, text.translate(bytes.maketrans(b"+/", b"-_"))}
    return {form for form in found if len(form) >= 8}


def pieces(token: str) -> list[str]:
    """A token, its parts, and runs of them: a log that cuts a token short has leaked it all the same."""
    header, *parts = token.split(".")
    return [token, header, *parts, *(part[n : n + 24] for part in parts for n in range(0, len(part) - 23, 24))]


class Canaries:
    """Everything secret or personal that was sent, in all its spellings."""

    def __init__(self) -> None:
        self.forms: dict[bytes, str] = {}
        self.add(SECRET, OLD_SECRET, *PERSONAL.values())

    def add(self, *values: str | bytes) -> None:
        for value in values:
            for form in spellings(value):
                self.forms.setdefault(form, repr(value))

    def token(self, token: str) -> str:
        self.add(*pieces(token))
        return token

    def found_in(self, data: bytes) -> list[str]:
        return sorted({what for form, what in self.forms.items() if form in data})


def files_of(folder: Path, besides: Iterable[str]) -> list[tuple[str, bytes]]:
    """Every file under the folder but those that are meant to hold a canary; and all names, which might be one."""
    kept = [(str(path.relative_to(folder)), path) for path in sorted(folder.rglob("*")) if path.is_file()]
    names = ("the names of all files", "\n".join(name for name, _ in kept).encode())
    return [names, *((name, p.read_bytes()) for name, p in kept if not any(re.fullmatch(b, name) for b in besides))]


@pytest.fixture
def canaries(pairs: dict[str, forge.Pair]) -> Canaries:
    found = Canaries()
    for pair in pairs.values():
        pem = pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        der = pair.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        found.add(*pem.splitlines()[2:-2], der[-40:])
        if hasattr(numbers := getattr(pair.key, "private_numbers", lambda: None)(), "private_value"):
            found.add(numbers.private_value.to_bytes(32, "big"), str(numbers.private_value))
    return found


@pytest.mark.parametrize("value", [SECRET, PERSONAL["sub"], PERSONAL["username"]])
@pytest.mark.parametrize(
    "spelled",
    [
        lambda v: f"error: {v}".encode(),
        lambda v: json.dumps({"x": v}).encode(),
        lambda v: base64.b64encode(f'{{"sub":"{v}"}}'.encode()),
        lambda v: base64.urlsafe_b64encode(f"x{v}yy".encode()),
        lambda v: binascii.hexlify(v.encode()),
        lambda v: "".join(f"%{byte:02X}" for byte in v.encode()).encode(),
        lambda v: repr(v.encode()).encode()[2:-1] if v.isascii() else ascii(v).encode(),
    ],
    ids=["plain", "json", "base64", "base64url", "hexadecimal", "percent", "repr"],
)
def test_a_canary_is_found_however_it_is_spelled(value: str, spelled: Any):
    assert repr(value) in Canaries().found_in(spelled(value))


# The real server, with a bug for one player.
PROGRAM = """
import sys
from verifier.cli.main import main
from verifier.core import tokens
verify = tokens.verify
def buggy(text, policy):
    player = verify(text, policy)
    if b'"bug"' in tokens.b64url_decode(text.split(".")[1]):
        raise RuntimeError(text)
    return player
tokens.verify = buggy
sys.argv[0] = "verifier"
main()
"""


def raw(port: int, data: bytes, *, hang_up: bool = False) -> int:
    """The status that raw bytes get, 0 without an answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(data)
        if hang_up:
            return 0
        return int((sock.recv(65_536).split() or [b"", b"0"])[1])


def test_the_server_writes_nothing_secret_or_personal(
    environment: dict[str, str],
    keys: Path,
    key_files: dict[str, bytes],
    pairs: dict[str, forge.Pair],
    canaries,
    tmp_path,
):
    now = int(time.time())
    for name, data in key_files.items():
        (keys / "public" / name).write_text(json.dumps(json.loads(data) | {"nbf": now - 100}))
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET)
    environment |= {"VERIFIER_SECRET_KEY": "", "VERIFIER_SECRET_KEY_FILE": str(secret_file)}
    del environment["VERIFIER_SECRET_KEY"]
    claims = {"iss": ISSUER, "aud": APPLICATION_ID, "iat": now, "exp": now + 300, **PERSONAL}
    pair = pairs["ES256"]

    def body(header: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        members = {"alg": "ES256", "kid": pair.kid, "typ": "at+jwt"} | (header or {})
        token = forge.token(pair, forge.changed(members, {}), forge.changed(claims, changes))
        return {"code": canaries.token(token), "secretKey": SECRET, "applicationId": APPLICATION_ID}

    good = body()
    header, payload, signature = good["code"].split(".")
    mail, name = PERSONAL["email"], PERSONAL["username"]
    bodies = [
        *(body({member: mail}) for member in ("typ", "kid", "alg", "crit", "b64", "zip")),
        *(body(**{member: [name]}) for member in ("iss", "aud", "sub", "email", "username", "iat", "exp", "nbf")),
        *(body(**{member: forge.ABSENT}) for member in ("iss", "aud", "sub", "iat", "exp")),
        body(email=mail * 20),
        body(username=f"{name}\ud800"),
        body(exp=now - 60, iat=now - 90),
        body(iat=now + 90, exp=now + 120),
        body(nbf=now + 90),
        body(exp=now + 9999),
        body(exp=(now + 300) * 1000),
        *(
            good | {"code": code}
            for code in (f"{header}.{payload}", f"{header}.{payload}.", f"{header}.{payload}.AAAA")
        ),
        *(good | {"code": code} for code in (f"{header}=.{payload}.{signature}", f" {good['code']}", mail, SECRET)),
        *(good | {"secretKey": secret} for secret in (OLD_SECRET, SECRET[:-1], SECRET + "x", good["code"])),
        *(good | {"applicationId": other} for other in (SECRET, mail, good["code"])),
    ]
    log = tmp_path / "server.log"
    server = conftest.start(environment, log, ("-c", PROGRAM))
    seen = set()
    try:
        accepted = server.ask(good)
        assert accepted.body == {"_id" if k == "sub" else k: v for k, v in PERSONAL.items()}
        answers = [server.ask(each) for each in bodies]
        assert {answer.status for answer in answers} == {401}
        seen |= {answer.body["error_description"] for answer in answers}
        assert len(seen) > 25, seen
        answers += [server.ask(good | {name: [good["code"], SECRET, mail]}) for name in good]
        text = json.dumps(good).encode()
        answers += [
            server.ask(data) for data in (text[:-1], text + b"}", b"[" + text + b"]", text.decode().encode("utf-16"))
        ]
        answers.append(server.ask(text[:-1] + b"," + text[1:]))
        answers.append(server.ask(text + b" " * 16_384))
        answers.append(server.ask(text, headers={"content-type": mail}))
        answers.append(server.ask(text, headers=conftest.JSON | {"content-encoding": SECRET}))
        secretive = {"authorization": f"Bearer {good['code']}", "cookie": f"s={SECRET}", "x-mail": mail}
        for method, path in (
            ("GET", f"/profile?code={good['code']}"),
            ("POST", f"/{good['code']}"),
            ("GET", f"/healthz?secretKey={OLD_SECRET}"),
        ):
            answers.append(server.ask(text, method=method, path=path, headers=conftest.JSON | secretive))
        assert {answer.status for answer in answers} == {200, 400, 401, 404, 405, 413, 415}
        bug = server.ask(body(bug=True))
        assert bug.status == 500
        answers.append(bug)
        begin = b"POST /profile HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        assert raw(server.port, begin % len(text) + text[:-1], hang_up=True) == 0
        assert raw(server.port, begin % len(text) + text[:-1]) == 408
        assert raw(server.port, text + b"\r\n\r\n") == 400
        assert raw(server.port, b"GET /%s HTTP/1.1\r\n\r\n" % good["code"].encode()) == 400
        assert raw(server.port, b"GET / HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n" % (text * 60)) == 431
        # What an operator may do by mistake while it runs.
        jwk = pairs["RS256"].public | {"d": SECRET, "iat": 1, "nbf": 1}
        (keys / "public" / "private.json").write_text(json.dumps(jwk))
        (keys / "public" / "token.json").write_text(good["code"])
        (keys / "public" / f"{pairs['EdDSA'].kid}.json").write_text(
            json.dumps({"kty": SECRET, "alg": mail, "kid": "x"})
        )
        secret_file.write_bytes(SECRET.encode() + b"\xff")
        deadline = time.monotonic() + 5
        while server.ask(method="GET", path="/readyz").body["problems"] != 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.ask(good).status == 200
    finally:
        assert server.stop() == 0
    for answer in answers:
        assert canaries.found_in(repr(answer).encode()) == []
        assert canaries.found_in(json.dumps(answer.body).encode()) == []
    written = log.read_text()
    assert '"error":"RuntimeError"' in written
    assert "private key material in a public key (found member d)" in written
    meant = (
        r"secret",
        r"keys/private/.*",
        r"keys/public/(private|token)\.json",
        rf"keys/public/{pairs['EdDSA'].kid}\.json",
    )
    for what, data in files_of(tmp_path, meant):
        assert canaries.found_in(data) == [], what


@pytest.mark.parametrize(
    "changes",
    [
        {"VERIFIER_PORT": SECRET},
        {"VERIFIER_APPLICATIONS": "a.json"},
        {"VERIFIER_LEEWAY": SECRET},
        {"VERIFIER_MAX_LIFETIME": SECRET},
        {"VERIFIER_WORKERS": SECRET},
        {"VERIFIER_APPLICATION_ID": ""},
        {"VERIFIER_ISSUER": ""},
        {"VERIFIER_KEYS": "nowhere"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_start_that_fails_does_not_show_the_secret(run, monkeypatch, environment, canaries, changes):
    for name, value in (environment | {"VERIFIER_SECRET_KEY": SECRET} | changes).items():
        monkeypatch.setenv(name, value)
    done = run("serve")
    assert done.status == 3
    assert canaries.found_in((done.out + done.err).encode()) == []


def test_the_commands_write_nothing_secret_or_personal(run, canaries, tmp_path: Path, pairs):
    say = canaries.found_in
    options_ = ("--issuer", ISSUER, "--application-id", APPLICATION_ID)
    player = (PERSONAL["sub"], "--email", PERSONAL["email"], "--username", PERSONAL["username"])
    shown: list[str] = []

    def do(*arguments: object, status: int = 0, stdin: str = "", now: int = NOW) -> str:
        done = run(*arguments, stdin=stdin, now=now)
        assert done.status == status, done
        shown.append(done.out + done.err)
        return done.out

    do("keys", "generate")
    for pem in (tmp_path / "keys/private").iterdir():
        canaries.add(*pem.read_bytes().splitlines()[1:-1])
    done = run("token", *player, *options_)
    token = canaries.token(done.out.strip())
    assert say(done.err.encode()) == []  # what it prints is the token
    header, payload, signature = token.split(".")
    do("token", PERSONAL["sub"] * 20, *options_, status=1)
    do("token", *player, "--lifetime", 999, *options_, status=1)

    for text, now, status in (
        (token, NOW, 0),
        (token, NOW + 999, 1),
        (f"{header}.{payload}", NOW, 1),
        (f"{header}.{payload}.AAAA", NOW, 1),
        (f"{payload}.{header}.{signature}", NOW, 1),
        (SECRET, NOW, 1),
        (forge.token(pairs["ES256"], {"typ": "x"}, {**PERSONAL, "sub": [PERSONAL["sub"]], "email": 1}), NOW, 1),
    ):
        canaries.token(text)
        for options in ((), ("--json",)):
            do("explain", *options_, *options, stdin=text, now=now, status=status)

    applications = ("--file", "applications.json")
    do("applications", "add", APPLICATION_ID, *applications, stdin=OLD_SECRET + "\n")
    do("applications", "add", APPLICATION_ID, *applications, stdin=OLD_SECRET + "\n", status=1)
    do("applications", "add", APPLICATION_ID, *applications, stdin=SECRET + "\n")
    do("applications", "add", APPLICATION_ID, *applications, stdin=SECRET + "x\n", status=1)
    do("applications", "list", *applications)
    do("applications", "list", "--json", *applications)
    do("applications", "remove-secret", APPLICATION_ID, "--slot", 1, *applications)
    (tmp_path / "broken.json").write_text(json.dumps({"applications": [{"id": "x", "secrets": [SECRET]}]}))
    do("applications", "list", "--file", "broken.json", status=3)

    do("keys", "rotate")
    do("keys", "list")
    do("keys", "list", "--json")
    for command in ("audit", "report"):
        for options in ((), ("--json",)):
            if options or command == "audit":
                do("keys", command, *options, "--applications", "applications.json")
    do("keys", "report", "--html", "report.html")
    do(
        "keys",
        "import",
        "-",
        stdin=pairs["ES256"].key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        status=3,
    )
    do("keys", "import", "-", stdin=json.dumps(pairs["ES256"].public | {"d": SECRET}), status=3)
    do("healthcheck", "--port", 1, status=1)

    for each in shown:
        assert say(each.encode()) == [], each
    for what, data in files_of(tmp_path, (r"keys/private/.*", r"broken\.json")):
        assert say(data) == [], what


class Echo(BaseHTTPRequestHandler):
    """An endpoint that does the worst it can to whoever reports about it.

    A token that expires soon gets its profile, whoever signed it; everything else gets back all that was sent.
    """

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        status, answer = 400, body
        try:
            payload = json.loads(body)["code"].split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
            if 0 < claims["exp"] - time.time() <= 300:
                members = {"_id": "sub", "email": "email", "username": "username"}
                status, answer = 200, json.dumps({m: claims[c] for m, c in members.items() if c in claims}).encode()
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            pass
        self.send_response(status, "OK")
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Echo", body.decode("latin-1").replace("\r", " ").replace("\n", " ")[:2000])
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/profile"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("with_", ["--keys", "--token"])
def test_check_shows_nothing_secret_or_personal_even_of_an_endpoint_that_echoes(
    echo: str, keys: Path, pairs, canaries, tmp_path: Path, with_: str
):
    now = int(time.time())
    for path in (keys / "public").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"nbf": now - 100}))
    claims = {"iss": ISSUER, "aud": APPLICATION_ID, "iat": now, "exp": now + 300, **PERSONAL}
    members = {"alg": "ES256", "kid": pairs["ES256"].kid, "typ": "at+jwt"}
    token = tmp_path / "token"
    token.write_text(canaries.token(forge.token(pairs["ES256"], members, claims)))
    environment = os.environ | {"VERIFIER_SECRET_KEY": SECRET}
    command = [
        sys.executable,
        "-m",
        "verifier",
        "check",
        echo,
        "--application-id",
        APPLICATION_ID,
        "--timeout",
        "2",
    ]
    command += ["--keys", str(keys), "--issuer", ISSUER] if with_ == "--keys" else ["--token", str(token)]
    for options in (["--junit", "report.xml"], ["--json"]):
        done = subprocess.run([*command, *options], cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == 1, done.stderr
        assert canaries.found_in(done.stdout + done.stderr) == []
    for what, data in files_of(tmp_path, ("token", r"keys/private/.*")):
        assert canaries.found_in(data) == [], what


def test_dev_shows_its_secret_and_its_token_in_its_own_request_and_nowhere_else(tmp_path: Path):
    command = [sys.executable, "-m", "verifier", "dev", "--once", "--port", str(conftest.free_port())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = Canaries()
    secret = (tmp_path / ".verifier-dev/secret").read_text().strip()
    code = re.search(r'"code": "([^"]+)"', done.stdout)
    assert code is not None
    found.add(secret)
    found.token(code[1])
    holding = [line for line in done.stdout.splitlines() if found.found_in(line.encode())]
    assert len(holding) == 1
    assert holding[0].startswith("request   POST http://127.0.0.1:")
    assert found.found_in(done.stderr.encode()) == []
    for what, data in files_of(tmp_path, (r"\.verifier-dev/secret",)):
        assert found.found_in(data) == [], what
