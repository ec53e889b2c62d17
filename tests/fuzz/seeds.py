"""The first inputs of every target, made from tests/vectors: python -m tests.fuzz.seeds [FOLDER].

Writes tests/fuzz/corpus/TARGET.json, lists of strings in which a character is a byte. With the FOLDER of a
long run (tests/fuzz/run.py) the short inputs that it found worth keeping are added.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests import test_vectors
from tests.support.contract import APPLICATION_ID, SECRET

CORPUS = Path(__file__).parent / "corpus"
MOST_BYTES, MOST_FOUND = 600, 160
GOOD = b'{"code":"$token","secretKey":"%s","applicationId":"%s"}' % (SECRET.encode(), APPLICATION_ID.encode())


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
