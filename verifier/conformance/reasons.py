"""The reason that an endpoint itself gives for a rejection, and the fix that matches it.

Rules match terms, not complete texts, so that they also recognize other implementations and JWT libraries.
The names are the reasons of this project's endpoint.
"""

import re
from typing import NamedTuple

from verifier.conformance.messages import Response

_CREDENTIALS = "compare applicationId and secretKey with the escs dashboard"
_BODY = "let proxies pass the body unchanged, and read it as one JSON object in UTF-8"
_JSON = "encode header and payload as one JSON object each, in UTF-8; use a JWT library"
_TOKEN = "pass the token alone in code, without Bearer, quotes or white space around it"
_TYP = "set typ to at+jwt in the token header when signing; JWT libraries default to JWT"
_SECONDS = "write exp, iat and nbf as numbers of seconds since 1970-01-01 UTC, not as strings or milliseconds"
_CLOCK = "synchronize the clocks of the signer and the endpoint (NTP), and issue a new token"
_ACTIVE_KEY = "sign with the active key of the key set that the endpoint has"
_LIFETIME = "set exp to iat plus 120 s; the maximum is 300 s (the default of .NET is one hour)"
_OVERLOAD = "wait and repeat; add replicas or raise the limit if it persists"


class Rule(NamedTuple):
    """Terms of a description, the reason that they stand for, and its fix."""

    reason: str  # {} is the group of the pattern
    pattern: str
    fix: str


# The first that matches.
RULES = (
    Rule("headers_too_large", r"request headers? .*too large", "remove large cookies and headers in the proxy"),
    Rule("{}_timeout", r"timed out reading (?:the )?request (header|body)", "let proxies buffer the request"),
    Rule("too_many_{}", r"too many (?:concurrent )?(connections|requests)", _OVERLOAD),
    Rule(
        "keys_stale", r"not been read recently", "repair the disk that holds the keys; the log of the endpoint names it"
    ),
    Rule("shutting_down", r"shutting down", "wait until the endpoint has restarted"),
    Rule("internal_error", r"internal (?:server )?error", "see the log of the endpoint"),
    Rule("malformed_request", r"malformed .*request", "compare http and https, and check the headers that proxies add"),
    Rule("not_found", r"^not found", "compare the path of the URL with the route, slash by slash"),
    Rule("method_not_allowed", r"method not allowed", "accept POST on this path, and no redirect before it"),
    Rule("headers_too_many", r"too many request header", "remove header fields in the proxy"),
    Rule("framing_too_large", r"chunked framing", "let proxies buffer the request and send Content-Length"),
    Rule("body_too_large", r"body too large", "raise the limit to 16 KiB"),
    Rule("body_encoded", r"content-encoding", "let proxies pass the body without Content-Encoding"),
    Rule("media_type_unsupported", r"content-type|media type", "let proxies pass Content-Type: application/json"),
    Rule("body_empty", r"body is empty", _BODY),
    Rule("code_missing", r"\bcode\b.*(?:non-empty|missing|required)", _BODY),
    Rule("secret_key_missing", r"\bsecretKey\b.*(?:non-empty|missing|required)", _BODY),
    Rule("application_id_missing", r"\bapplicationId\b.*(?:non-empty|missing|required)", _BODY),
    Rule(
        "{}_not_base64url",
        r"(header|payload|signature)\b.* base64",
        f"encode each part as unpadded base64url, and {_TOKEN}",
    ),
    Rule("{}_not_utf8", r"\b(header|payload)\b.* UTF-8", _JSON),
    Rule("{}_not_object", r"\b(header|payload)\b.* JSON object", _JSON),
    Rule("{}_not_json", r"\b(header|payload)\b.* JSON", _JSON),
    Rule("{}_duplicate_key", r"duplicate key in .*(header|payload)", _JSON),
    Rule("{}_too_complex", r"nest.*\b(header|payload)", _JSON),
    Rule("body_not_utf8", r"body\b.* UTF-8", _BODY),
    Rule("body_not_object", r"body\b.* JSON object", _BODY),
    Rule("body_duplicate_key", r"duplicate key in .*body", _BODY),
    Rule("body_too_complex", r"nest.*\bbody", _BODY),
    Rule("body_not_json", r"body\b.* JSON", _BODY),
    Rule("token_malformed", r"malformed token|jwt malformed|compact JWS|segments", _TOKEN),
    Rule("typ_is_jwt", r"\btyp is JWT", _TYP),
    Rule("typ_missing", r"(?=.*\bmissing).*\btyp\b", _TYP),
    Rule("typ_unexpected", r"\btyp\b", _TYP),
    Rule("{}_unsupported", r"\b(crit|b64|zip)\b", "sign without crit, b64 and zip in the token header"),
    Rule("kid_missing", r"(?=.*\bmissing).*\bkid\b", "set kid in the token header to the name of the key when signing"),
    Rule("key_revoked", r"\bkey\b.*\brevoked\b", _ACTIVE_KEY),
    Rule("key_expired", r"\bkey\b.*\bexpired\b", _ACTIVE_KEY),
    Rule("key_not_yet_valid", r"\bkey\b.*\bnot (?:valid yet|yet valid)", _ACTIVE_KEY),
    Rule("alg_mismatch", r"\balg is not the algorithm", "sign with the algorithm of the key that kid names"),
    Rule(
        "unknown_key",
        r"\b(?:unknown|no|matching|find a) (?:signing )?key\b|\bkey not found|\bkid\b",
        "publish the public key to the endpoint, and set kid to the name that it has there",
    ),
    Rule("alg_unsupported", r"\balg(?:orithm)?\b", "sign with ES256, EdDSA or RS256"),
    Rule("lifetime_not_positive", r"\bexp is not after iat", _LIFETIME),
    Rule("lifetime_too_long", r"\blifetime\b|\bafter iat", _LIFETIME),
    Rule("{}_in_milliseconds", r"\b(exp|iat|nbf)\b.*\bmilliseconds", _SECONDS),
    Rule("{}_not_number", r"\b(exp|iat|nbf)\b.*\bnumber", _SECONDS),
    Rule("{}_not_finite", r"\b(exp|iat|nbf)\b.*\bfinite", _SECONDS),
    Rule("{}_missing", r"(?=.*\bmissing).*\b(exp|iat)\b", "set iat and exp when signing"),
    Rule("token_expired", r"\bexpired\b|\bexp\b", _CLOCK),
    Rule("iat_in_future", r"\biat\b|\bissued in the future", _CLOCK),
    Rule("token_not_yet_valid", r"\bnbf\b|\bnot (?:valid yet|yet valid|active)", _CLOCK),
    Rule("signature_is_der", r"\bDER\b", "convert the signature to the 64 bytes r and s (RFC 7518 section 3.4)"),
    Rule(
        "signature_invalid",
        r"\bsignature\b",
        "compare the private key of the signer with the public key of this kid, and pass the token unchanged",
    ),
    Rule("iss_unexpected", r"\biss(?:uer)?\b", "compare iss with the issuer of the endpoint, character by character"),
    Rule("aud_invalid", r"\baud(?:ience)?\b.*\bmust be", "set aud to the applicationId when signing"),
    Rule(
        "aud_unexpected",
        r"\baud(?:ience)?\b",
        "set aud to the applicationId that escs sends; production and demo have different ones",
    ),
    Rule("{}_too_long", r"\b(sub|email|username)\b.*\blonger", "shorten the claim when signing"),
    Rule(
        "{}_unpaired_surrogate",
        r"\b(sub|email|username)\b.*\bsurrogate",
        "truncate names between characters, not within one, when signing",
    ),
    Rule("sub_is_number", r"\bsub\b.*\bnumber", "write the player id as a string in sub"),
    Rule("sub_missing", r"\bsub\b", "set sub to the player id, a non-empty string"),
    Rule("{}_not_string", r"\b(email|username)\b.*\bstring", "write email and username as strings, or omit them"),
    Rule("client_rejected", r"\b(?:secret|application|client)\b", _CREDENTIALS),
)

NO_RULE = Rule("", "", "")
TIME_REASONS = {"token_expired", "token_not_yet_valid", "iat_in_future", "key_expired", "key_not_yet_valid"}


def description_of(response: Response) -> str:
    """Return the text in which the endpoint explains an error: RFC 6749, RFC 6750, or common fields; or ""."""
    members = response.members or {}
    for name in ("error_description", "detail", "message"):
        if isinstance(members.get(name), str) and members[name]:
            return str(members[name])
    challenge = re.search(r'error_description="([^"]+)"', response.headers.get("www-authenticate", ""))
    return challenge[1] if challenge else ""


def find_rule(description: str) -> Rule:
    """Return the rule that a description matches, its reason complete; NO_RULE for an unknown text."""
    for rule in RULES:
        if match := re.search(rule.pattern, description, re.IGNORECASE):
            return rule._replace(reason=rule.reason.format(*(group.lower() for group in match.groups())))
    return NO_RULE
