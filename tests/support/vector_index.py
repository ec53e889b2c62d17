"""tests/vectors/INDEX.md: every vector in one sentence. `python -m tests.support.vector_index` writes it."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "vectors"
INDEX = FOLDER / "INDEX.md"
GROUPS = {
    "accepted": "Accepted tokens",
    "alg": "The algorithm",
    "header": "The header",
    "shape": "The compact serialization",
    "signature": "The signature",
    "claims": "The claims",
    "order": "The order of the checks",
}


def load(name: str) -> dict[str, Any]:
    """Return one of the three files."""
    vectors: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return vectors


def sentence(case: dict[str, Any]) -> str:
    """Return what an implementation must do with a vector, and why."""
    accepted = case["valid"] if "valid" in case else "accept" in case["expected"]
    return f"- {'Accept' if accepted else 'Reject'} `{case['name']}` ({case['because']})."


def render() -> str:
    """Return the index."""
    tokens, keys, signatures = (load(name) for name in ("tokens", "jwk", "signatures"))
    lines = [
        f"# Index of the test vectors, version {tokens['version']}",
        "",
        "Written by `python -m tests.support.vector_index`. The format: [README.md](README.md).",
        "",
        f"## tokens.json: {len(tokens['cases'])} tokens",
    ]
    for group, cases in groupby(tokens["cases"], key=lambda case: case["group"]):
        lines += ["", f"### {GROUPS[group]}", "", *map(sentence, cases)]
    lines += ["", f"## jwk.json: {len(keys['cases'])} public keys", "", *map(sentence, keys["cases"])]
    lines += ["", f"## signatures.json: {len(signatures['cases'])} signatures", "", *map(sentence, signatures["cases"])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    INDEX.write_text(render(), "utf-8")
