"""Why a token is rejected: the result of every check at once, for the developer who issued it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from verifier.core import tokens
from verifier.core.encoding import b64url_decode, loads_object
from verifier.core.rules import CLAIM_RULES, NUMBERS, SIGNATURE_RULES, Policy, Rule, UnverifiedToken
from verifier.core.times import MAX_TIME, format_duration, utc
from verifier.errors import InvalidToken, Reason

_PERSONAL = ("sub", "email", "username")
_FORMS = {"header": "base64url of a JSON object in UTF-8", "payload": "base64url", "signature": "base64url"}


@dataclass(frozen=True, slots=True)
class RuleResult:
    """The result of one check. `actual` holds no personal data and no part of the token."""

    rule: str
    source: str
    expected: str
    actual: str
    reason: Reason | None = None  # None: passed, or not checked
    failure: str = ""  # error_description, or ""
    skipped: str = ""  # why it was not checked, or ""


def explain(text: str, policy: Policy) -> list[RuleResult]:
    """Check a token against every rule, in the order in which `tokens.verify` does; raises nothing.

    What cannot be checked because of an earlier failure is reported as skipped, not as failed.
    The first failure has the reason that the server gives.
    """
    results: list[RuleResult] = []
    unwrapped = tokens.unwrap(text)
    # The token inside is checked all the same, because it has to be right as well.
    segments, error = _attempt(tokens.split_compact, unwrapped)
    if error or unwrapped != text:
        found, malformed = _describe_form(text, unwrapped), InvalidToken(Reason.TOKEN_MALFORMED)
        results.append(_result("form", "RFC 7515 §7.1", "header.payload.signature", found, malformed))
    if error:
        return results
    decoded: list[Any] = []
    for (name, form), segment in zip(_FORMS.items(), segments, strict=True):
        data, error = _attempt(tokens.decode, b64url_decode, segment, name)
        if name == "header" and not error:
            data, error = _attempt(tokens.decode, loads_object, data, name)
        results.append(_result(name, "RFC 7515 §5.2", form, _count(len(segment), "character"), error))
        decoded.append(data)
    header, payload, signature = decoded
    key = policy.keyring.find((header or {}).get("kid"))
    signing_input = ".".join(segments[:2]).encode("utf-8", "surrogatepass")
    token = UnverifiedToken(header or {}, {}, signing_input, signature or b"", key)
    results += _check(SIGNATURE_RULES, token, policy, "the header cannot be read" if header is None else "")
    claims = None
    if payload is not None:
        claims, error = _attempt(tokens.decode, loads_object, payload, "payload")
        size = _count(len(payload), "byte")
        results.append(_result("claims", "RFC 7519 §7.2", "a JSON object in UTF-8", size, error))
    unreadable = "the payload cannot be read" if claims is None else ""
    return results + _check(CLAIM_RULES, token._replace(claims=claims or {}), policy, unreadable)


def _attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, InvalidToken | None]:
    """Return the result, or None and the error."""
    try:
        return function(*arguments), None
    except InvalidToken as exc:
        return None, exc


def _describe_form(text: str, token: str) -> str:
    """Describe a text that is no compact JWS; where something surrounds a token, what to remove."""
    found = f"{_count(text.count('.') + 1, 'part')}, {_count(len(text), 'character')}"
    if not token or token == text:
        return found
    before, _, after = text.rpartition(token)
    removed = [f"{ascii(part)[:40]} {where}" for part, where in ((before, "before"), (after, "after")) if part]
    return f"{found}: remove {' and '.join(removed)} the token"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _check(checked: tuple[Rule, ...], token: UnverifiedToken, policy: Policy, unreadable: str) -> list[RuleResult]:
    results: list[RuleResult] = []
    for rule in checked:
        _, error = _attempt(rule.check, token, policy)
        failed = {result.rule: result.reason for result in results if result.reason}
        expected = rule.expects.format(**policy._asdict())
        if skipped := unreadable or _skipped(rule.name, token, error, failed):
            results.append(RuleResult(rule.name, rule.source, expected, "not checked", skipped=skipped))
        else:
            actual = _describe_actual(rule.name, token, policy)
            results.append(_result(rule.name, rule.source, expected, actual, error))
    return results


def _skipped(name: str, token: UnverifiedToken, error: InvalidToken | None, failed: Mapping[str, Reason]) -> str:
    """Return why a rule cannot be judged on its own, or ""."""
    if name in ("alg", "signature") and token.key is None and (error is None or error.reason != Reason.ALG_UNSUPPORTED):
        return "unknown key"
    if name == "signature" and "alg" in failed:
        return "alg is not accepted"
    if name == "signature" and not token.signature:
        return "there is no signature that can be read"
    # lifetime needs exp and iat, whose own failures are reported once.
    return next((f"{rule} cannot be used" for rule, reason in failed.items() if error and reason == error.reason), "")


def _result(name: str, source: str, expected: str, actual: str, error: InvalidToken | None) -> RuleResult:
    reason, failure = (error.reason, str(error)) if error else (None, "")
    return RuleResult(name, source, expected, actual, reason, failure)


def _describe_actual(name: str, token: UnverifiedToken, policy: Policy) -> str:
    if name == "signature":
        return _count(len(token.signature), "byte")
    if name == "lifetime":
        dates: list[Any] = [token.claims.get("exp"), token.claims.get("iat")]
        return f"{dates[0] - dates[1]:g} s" if all(type(date) in NUMBERS for date in dates) else "unknown"
    if name == "crit":
        return ", ".join(sorted({"crit", "b64", "zip"} & token.header.keys())) or "absent"
    source = token.header if name in ("typ", "kid", "alg") else token.claims
    if name not in source:
        return "absent"
    value = source[name]
    if name in _PERSONAL:
        return f"a string of {_count(len(value), 'character')}" if isinstance(value, str) else type(value).__name__
    if name in ("exp", "iat", "nbf") and type(value) in NUMBERS and 0 <= value <= MAX_TIME:
        return f"{value:.15g} ({utc(value)}, {_distance(name, value - policy.now)})"
    return json.dumps(value)[:60]


def _distance(name: str, seconds: float) -> str:
    """Describe a time relative to now: "issued 1 s ago", "expired 104 s ago", "valid in 5 s"."""
    words = {"iat": ("issued", "issued"), "exp": ("expired", "expires"), "nbf": ("valid since", "valid")}[name]
    duration = format_duration(abs(round(seconds)))
    return f"{words[0]} {duration} ago" if seconds <= 0 else f"{words[1]} in {duration}"
