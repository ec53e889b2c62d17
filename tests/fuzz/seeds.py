"""The first inputs of every target, made from tests/vectors: python -m tests.fuzz.seeds [FOLDER].

Writes tests/fuzz/corpus/TARGET.json, lists of strings in which a character is a byte. With the FOLDER of a
long run (tests/fuzz/run.py) the short inputs that it found worth keeping are added.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.core import test_vectors
from tests.support.contract import APPLICATION_ID, SECRET

CORPUS = Path(__file__).parent / "corpus"
MOST_BYTES, MOST_FOUND = 600, 160
GOOD = b'{"code":"$token","secretKey":"%s","applicationId":"%s"}' % (SECRET.encode(), APPLICATION_ID.encode())

GET = b"GET /%b HTTP/1.1\r\nHost: x\r\n%b\r\n"
CHUNKED = b"POST /%b HTTP/1.1\r\nHost: x\r\n%bTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n%b\r\n"
SIZED = b"POST /%b HTTP/1.1\r\nHost: x\r\n%bContent-Length: 5\r\n\r\nhello"
UPGRADE, EXPECT = b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n"
STREAMS = (
    GET % (b"", b"") * 6,
    GET % (b"", b"a:\r\n" * 9),
    GET % (b"aaa", b"Connection: close\r\n") + GET % (b"", b""),
    GET % (b"", b"X: " + b"y" * 500 + b"\r\n"),
    b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nHEAD / HTTP/1.0\r\n\r\n",
    b"\r\n\r\n" + SIZED % (b"", b"") * 3,
    SIZED % (b"a", EXPECT) + GET % (b"", b""),
    SIZED % (b"aaa", UPGRADE) + GET % (b"", b""),
    CHUNKED % (b"", b"", b"Connection: close\r\n") + GET % (b"", b""),
    CHUNKED % (b"aaa", b"", b"Proxy-Connection: close\r\n") + GET % (b"", b""),
    CHUNKED % (b"aa", UPGRADE, b"X: y\r\n") * 2,
    CHUNKED % (b"", EXPECT, b"") + b"nonsense\r\n\r\n",
    CHUNKED[:-4] % (b"", b"") + b"X: " + b"y" * 200,
    CHUNKED[:-4].replace(b"5;a=b\r\nhello", b"7\r\n\r\n\r\n0\r\n") % (b"", b"") + b"\r\n" + GET % (b"", b""),
    CHUNKED[:-4].replace(b"5;a=b\r\nhello", b"1\r\nx\r\n" * 30) % (b"", b"") + b"\r\n",
    b"OPTIONS * RTSP/1.0\r\n\r\n" + b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
)


def seeds() -> dict[str, set[bytes]]:
    """The inputs by target. None holds a key: $kid and its like are filled in by the target."""
    vectors: Any = object.__new__(test_vectors.Vectors)
    found: dict[str, set[bytes]] = {name: set() for name in ("header", "claims", "token", "key")}
    for case in test_vectors.TOKENS["cases"]:
        found["header"].add(vectors._part(case, "header", lambda value: value))
        found["claims"].add(vectors._part(case, "claims", lambda value: value))
        if "token" in case:
            found["token"].add(test_vectors._pieces(case["token"]))
    for case in test_vectors.KEYS["cases"]:
        members = test_vectors.KEYS["keys"][case["key"]]["jwk"] | case.get("jwk", {})
        kept = {name: value for name, value in members.items() if name not in case.get("without", ())}
        found["key"].add(json.dumps(kept | {"iat": 1, "nbf": 2, "exp": 3}).encode())
    found["key"].add(b'{"keys":[%s]}' % json.dumps(test_vectors.KEYS["keys"]["rfc8037-a2"]["jwk"]).encode())
    found["token"] |= {b"$header.$claims.$signature", b"$header.$claims.", b"$header.$claims.$signature="}
    found["base64url"] = {b"", b"AA", b"AAA", b"AAAA", b"AB", b"-_", b"+/", b"A", b"AA==", b"A A"}
    found["request"] = {GOOD, GOOD + b" ", GOOD.replace(b"code", b"c\\u006fde"), GOOD[:-1] + b',"code":1}', b"[]"}
    slots = [{"sha256": "ab" * 32}, {"sha256": "cd" * 32, "weakness": "short"}]
    found["connection"] = {chosen + stream for chosen in (b"\0\0\0\0", b"abcd", b"2017") for stream in STREAMS}
    for entries in ([], [{"id": "a", "secrets": slots}], [{"id": "a", "secrets": slots[:1]}] * 2, [1], {}):
        found.setdefault("applications", set()).add(json.dumps({"applications": entries}).encode())
    return found


def corpus(target: str) -> list[bytes]:
    """The inputs that are kept in the repository."""
    names = ("header", "claims") if target == "json" else (target,)
    return [
        text.encode("latin-1") for name in names for text in json.loads((CORPUS / f"{name}.json").read_text("ascii"))
    ]


if __name__ == "__main__":
    for name, inputs in seeds().items():
        for folder in sys.argv[1:]:
            inputs |= {
                path.read_bytes() for path in (Path(folder) / name).iterdir() if path.stat().st_size <= MOST_FOUND
            }
        kept = sorted(data.decode("latin-1") for data in inputs if len(data) <= MOST_BYTES)
        (CORPUS / f"{name}.json").write_text(json.dumps(kept, indent=0) + "\n", "ascii")
