"""Why a token is refused: every rule at once, for the person who minted it."""

import json
from dataclasses import dataclass
from typing import Any, TypeGuard

from verifier.core import rules, tokens
from verifier.core.times import utc
from verifier.errors import InvalidToken

_PERSONAL = ("sub", "email", "username")


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What one rule says of a token. `got` holds no personal data and no part of the token's text."""

    rule: str
    source: str
    expected: str
    got: str
    failure: str = ""  # the refusal's text, or "" for pass


def explain(text: str, policy: rules.Policy) -> list[RuleResult]:
    """The verdict of every rule on a token, good or bad; nothing is raised."""
    verdicts = []
    parts = {"header": "", "payload": "", "signature": ""}
    try:
        parts = dict(zip(parts, tokens.split_compact(text), strict=True))
    except InvalidToken as exc:
        found = f"{text.count('.') + 1} parts, {len(text)} characters"
        return [RuleResult("format", "RFC 7515 §7.1", "header.payload.signature", found, str(exc))]
    read: dict[str, Any] = {"header": {}, "payload": {}, "signature": b""}
    for name, part in parts.items():
        failure = ""
        try:
            read[name] = (tokens.decode_segment if name == "signature" else tokens.decode_json_segment)(part, name)
        except InvalidToken as exc:
            failure = str(exc)
        form = "base64url" if name == "signature" else "base64url of a JSON object in UTF-8"
        verdicts.append(RuleResult(name, "RFC 7515 §5.2", form, f"{len(part)} characters", failure))
    signing_input = f"{parts['header']}.{parts['payload']}".encode("utf-8", "surrogatepass")
    key = policy.keyring.find(read["header"].get("kid"))
    token = rules.UnverifiedToken(read["header"], read["payload"], signing_input, read["signature"], key)
    for rule in rules.RULES:
        failure = ""
        try:
            rule.check(token, policy)
        except InvalidToken as exc:
            failure = str(exc)
        expected = rule.expects.format(**policy._asdict())
        verdicts.append(
            RuleResult(rule.name, rule.source, expected, _describe_actual(rule.name, token, policy), failure)
        )
    return verdicts


def clock_offset(text: str, now: int) -> str:
    """How the clock that wrote `iat` compares with this one, in words; "" where iat cannot be read."""
    try:
        iat = tokens.parse(text).claims.get("iat")
    except InvalidToken:
        return ""
    if not _is_number(iat) or not -(10**11) < iat < 10**11:
        return ""
    return f"iat is {abs(now - iat):g} s {'before' if iat <= now else 'after'} this clock ({utc(now)})"


def _describe_actual(name: str, token: rules.UnverifiedToken, policy: rules.Policy) -> str:
    if name == "signature":
        return f"{len(token.signature)} bytes"
    if name == "lifetime":
        exp, iat = token.claims.get("exp"), token.claims.get("iat")
        return f"{exp - iat:g} s" if _is_number(exp) and _is_number(iat) else "unknown"
    if name == "crit":
        return ", ".join(sorted({"crit", "b64", "zip"} & token.header.keys())) or "none of them"
    source = token.header if name in ("typ", "kid", "alg") else token.claims
    if name not in source:
        return "absent"
    value = source[name]
    if name in _PERSONAL and isinstance(value, str):
        return f"a string of {len(value)} characters"
    if name in ("exp", "iat", "nbf") and _is_number(value) and 0 <= value < 10**11:
        return f"{value:.15g} ({utc(value)}, {value - policy.now:+g} s from now)"
    if name in _PERSONAL:
        return type(value).__name__
    return json.dumps(value)[:60]


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
