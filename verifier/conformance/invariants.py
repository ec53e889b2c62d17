"""Properties that every response of an endpoint must have, whichever case it belongs to."""

from collections.abc import Callable
from typing import NamedTuple

from verifier.conformance.cases import INPUT, MUST, SHOULD, Advice, Case
from verifier.conformance.messages import JSON_TYPE, Request, Response

SLOW_S = 1.0
MAX_CLOCK_SKEW_S = 5  # beyond this, the skew is reported
CERTIFICATE_DAYS = 14


class Interaction(NamedTuple):
    """A case, its request and the response."""

    case: Case
    request: Request
    response: Response

    @property
    def is_rejection(self) -> bool:
        """Whether the case requires a rejection, got no profile, and is not about the status itself."""
        return self.case.status >= 400 and self.case.group != "http" and not self.response.is_profile


class Invariant(NamedTuple):
    """A property of every response."""

    id: str
    description: str
    violation: Callable[[Interaction], str]  # how one response violates it, or ""
    level: str
    advice: Advice
    group: str = "responses"
    needs: str = ""


def _rejection_2xx(i: Interaction) -> str:
    violated = i.is_rejection and i.case.level == MUST and i.response.is_2xx
    return f"{i.response.status} without a profile" if violated else ""


def _rejection_status(i: Interaction) -> str:
    violated = i.is_rejection and i.response.status != i.case.status and not _rejection_2xx(i)
    # Redirects and crashes have invariants of their own.
    return f"{i.response.status}, expected {i.case.status}" if violated and i.response.status // 100 in (2, 4) else ""


def _error_json(i: Interaction) -> str:
    if not 400 <= i.response.status < 500:
        return ""
    members = i.response.members or {}
    if set(members) != {"error", "error_description"} or not all(isinstance(text, str) for text in members.values()):
        return "other JSON" if members else "not JSON"
    code = "invalid_client" if i.case.group == "client" else "invalid_token"
    code = code if i.case.status == 401 else "invalid_request"
    return f"error is not {code}" if members["error"] != code and i.response.status == i.case.status else ""


def _json_type(i: Interaction) -> str:
    return "" if i.response.media_type == JSON_TYPE else "another Content-Type"


def _no_store(i: Interaction) -> str:
    return "" if "no-store" in i.response.headers.get("cache-control", "").lower() else "no Cache-Control: no-store"


def _no_redirect(i: Interaction) -> str:
    return f"{i.response.status}" if i.response.is_redirect else ""


def _no_crash(i: Interaction) -> str:
    return f"{i.response.status}" if i.response.status >= 500 and i.case.group != "http" else ""


def _no_echo(i: Interaction) -> str:
    text = "\n".join((*i.response.headers.values(), i.response.body.decode("utf-8", "replace")))
    private = [value for value in (i.request.secret, i.request.token) if isinstance(value, str) and len(value) > 7]
    return "repeats the secret or the token" if any(value in text for value in private) else ""


def _fast(i: Interaction) -> str:
    return f"{i.response.duration_s:.1f} s" if i.response.duration_s > SLOW_S else ""


def clock_skew(response: Response) -> str:
    """Describe the skew of the server's clock; "" up to MAX_CLOCK_SKEW_S."""
    offset = response.clock_offset_s
    return f"{abs(offset):.0f} s {'ahead' if offset > 0 else 'behind'}" if abs(offset) > MAX_CLOCK_SKEW_S else ""


def _certificate(i: Interaction) -> str:
    days = i.response.certificate_days
    return f"expires in {int(days)} days" if days is not None and days < CERTIFICATE_DAYS else ""


STATUS = Advice(
    "escs may treat any 2xx as a success, because a caller reads the status before the body",
    "respond 401 to a rejected token or secret and 400 to a request that is not from escs",
)
ERROR = Advice(
    "a developer reads the reason in the response; an HTML page, or JSON of another shape, hides it",
    "respond to every error with application/json and {error: invalid_token, invalid_client or invalid_request, "
    "error_description: the reason}, including the framework's own errors",
)
CACHE = Advice(
    "a cache between escs and the endpoint may store the player's e-mail",
    "set Cache-Control: no-store on every response",
)
REDIRECT = Advice(
    "a client that follows it resends the secret, possibly unencrypted", "turn off redirects for slashes and hosts"
)
ECHO = Advice(
    "responses are logged, and the secret with them", "respond with fixed texts; never repeat parts of the request"
)
FAST = Advice(
    "the player waits, and the timeout of escs is not documented",
    "keep the service warm and close to escs, and avoid look-ups",
)
CLOCK = Advice(
    "tokens are valid for minutes; with a wrong clock, valid tokens are rejected", "synchronize both clocks (NTP)"
)
RENEW = Advice(
    "no player can sign in after it expires", "renew the certificate, and verify that it is renewed automatically"
)

INVARIANTS = [
    Invariant("rejection-2xx", "no rejection has a 2xx status", _rejection_2xx, MUST, STATUS),
    Invariant(
        "rejection-status",
        "rejections are 401 for the token and the client, 400 for the body",
        _rejection_status,
        SHOULD,
        STATUS,
    ),
    Invariant("error-json", "errors are {error, error_description}", _error_json, SHOULD, ERROR),
    Invariant("json-type", "every response is application/json", _json_type, SHOULD, ERROR),
    Invariant("no-store", "every response has Cache-Control: no-store", _no_store, SHOULD, CACHE),
    Invariant("no-redirect", "no response is a redirect", _no_redirect, SHOULD, REDIRECT),
    Invariant("no-crash", "no response is a 5xx", _no_crash, SHOULD, INPUT),
    Invariant("no-echo", "no response repeats the secret or the token", _no_echo, SHOULD, ECHO),
    Invariant("fast", f"every response is complete within {SLOW_S:g} s", _fast, SHOULD, FAST),
    Invariant(
        "clock", f"Date is within {MAX_CLOCK_SKEW_S} s of this clock", lambda i: clock_skew(i.response), SHOULD, CLOCK
    ),
    Invariant("certificate", f"the certificate is valid for {CERTIFICATE_DAYS} more days", _certificate, SHOULD, RENEW),
]
