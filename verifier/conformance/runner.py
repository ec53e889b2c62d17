"""Run the cases against an endpoint and grade its responses.

Level "must": the interface that escs documents, and no unauthorized sign-in. This covers every token that can be
made without the game's key, and every token of the game that is too old or meant for another party.
Level "should": how this project responds beyond that; another implementation may choose otherwise.
"""

import json
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from verifier.conformance.cases import CASES, SHOULD, Case
from verifier.conformance.causes import NO_CAUSE, Cause, likely_cause
from verifier.conformance.client import NoResponseError, send
from verifier.conformance.forge import CLAIMS, Context, decode
from verifier.conformance.invariants import INVARIANTS, Interaction, Invariant, clock_skew
from verifier.conformance.messages import Request, Response, Url
from verifier.conformance.reasons import TIME_REASONS, description_of, find_rule
from verifier.conformance.redaction import escape, redact

PASS, FAIL, SKIP = "pass", "fail", "skip"
LEEWAY_S = 30  # with more clock skew, valid tokens are rejected
MAX_CONSECUTIVE_FAILURES = 3  # then the remaining cases are skipped
MAX_SHOWN_CHARACTERS = 200
UNCONDITIONAL = ("profile-full", "profile-again")  # plain requests: every cause of a rejection is likely


@dataclass(frozen=True)
class Result:
    """The outcome of a case or an invariant. Holds no secret, no token and no personal data."""

    item: Case | Invariant
    outcome: str
    level: str  # may be lower than the item's
    problem: str = ""  # of a failure; the reason where it was skipped
    request: str = ""
    response: str = ""
    cause: Cause = NO_CAUSE
    duration_s: float = 0.0

    def details(self) -> dict[str, str]:
        """Return the request, the response, the impact, the fix and the documentation of a failure, by name."""
        if self.outcome != FAIL:
            return {}
        impact, fix = self.item.advice
        if self.cause.text:
            fix = self.cause.fix or fix
            if isinstance(self.item, Case) and self.item.status == 200:
                impact = "no player can sign in until a valid request is accepted"
        texts = {
            "request": self.request,
            "response": self.response,
            "cause": self.cause.text,
            "reason": self.cause.reason,
            "impact": impact,
            "fix": fix,
            "see": self.cause.reason and f"docs/errors.md#{self.cause.reason}",
        }
        return {name: text for name, text in texts.items() if text}


def select(only: Iterable[str]) -> list[Case | Invariant]:
    """Return the cases and invariants with one of these ids or groups, or all of them.

    Raises:
        ValueError: a word is neither an id nor a group.
    """
    everything: list[Case | Invariant] = [*CASES, *INVARIANTS]
    wanted = set(only)
    unknown = wanted - {name for item in everything for name in (item.id, item.group)}
    if unknown:
        raise ValueError(f"unknown case or group: {escape(', '.join(sorted(unknown)))}; see --list")
    chosen = [item for item in everything if not wanted or wanted & {item.id, item.group}]
    # Invariants without a case are graded with one valid request.
    return chosen if any(isinstance(item, Case) for item in chosen) else [CASES[0], *chosen]


def run(url: Url, context: Context, chosen: Iterable[Case | Invariant], timeout_s: float) -> Iterator[Result]:
    """Send one request for each case and none for an invariant; yield each result when it is known.

    Skips the rest where it would only repeat a failure: no response to the first request or to three
    in a row, or a valid token that is not accepted.
    """
    tls = ssl.create_default_context() if url.https else None
    interactions: list[Interaction] = []
    sent = consecutive_failures = 0
    stopped = ""
    for item in chosen:
        reason = stopped or context.missing_requirement(item.needs)
        if reason:
            yield Result(item, SKIP, item.level, reason)
        elif isinstance(item, Invariant):
            yield _grade_invariant(item, interactions)
        else:
            sent += 1
            request = item.build(context)
            try:
                response = send(url, request, timeout_s=timeout_s, tls=tls)
            except NoResponseError as exc:
                consecutive_failures += 1
                if sent == 1:
                    stopped = "no response to the first request"
                elif consecutive_failures == MAX_CONSECUTIVE_FAILURES:
                    stopped = f"no response to {MAX_CONSECUTIVE_FAILURES} consecutive requests"
                # Without a response, a hostile request was at least not accepted.
                level = item.level if stopped or item.status == 200 else SHOULD
                yield Result(item, FAIL, level, "no response", _shown(url, item, request), cause=exc.cause)
            else:
                consecutive_failures = 0
                interactions.append(Interaction(item, request, response))
                if item is CASES[0] and not response.is_profile:
                    stopped = "the endpoint must accept a valid token first"
                yield _grade(url, context, interactions[-1])


def _grade(url: Url, context: Context, i: Interaction) -> Result:
    problem, cause, status = "", NO_CAUSE, i.response.status
    hide = _redactor(context, i)
    if i.case.status == 200:
        problem = "" if i.response.is_profile else f"rejected with {status}"
        if i.case.group == "profile" and i.response.is_2xx:
            problem = _profile_problem(i, hide, exact=context.key is not None)
        # After profile-full, only what may happen to any request is a cause; other failures are specific to the case.
        general = status // 100 in (3, 5) or status == 429 or i.case.id in UNCONDITIONAL
        cause = _cause(url, context, i, hide) if problem and general else NO_CAUSE
    elif i.case.id == "trailing-slash":
        problem = "" if status in (200, 404) else f"{status}, expected 404"
    elif i.case.group == "http":
        missing_allow = status == 405 and "allow" not in i.response.headers
        problem = f"{status}, expected {i.case.status}" * (status != i.case.status)
        problem = "405 without Allow" if missing_allow else problem
    elif i.response.is_profile:
        problem = "accepted"
    if not problem:
        return Result(i.case, PASS, i.case.level, duration_s=i.response.duration_s)
    kind = i.response.headers.get("content-type", "no Content-Type")
    response = f"{status}, {hide(kind)}: {hide(i.response.body.decode('utf-8', 'replace'))}".rstrip()
    problem, response, text = (text[:MAX_SHOWN_CHARACTERS] for text in (problem, response, cause.text))
    request = _shown(url, i.case, i.request)
    return Result(
        i.case, FAIL, i.case.level, problem, request, response, cause._replace(text=text), i.response.duration_s
    )


def _grade_invariant(invariant: Invariant, interactions: Iterable[Interaction]) -> Result:
    violations = [f"{i.case.id} ({text})" for i in interactions if (text := invariant.violation(i))]
    more = f" and {len(violations) - 5} more" if len(violations) > 5 else ""
    problem = f"{len(violations)} response{'s' * (len(violations) > 1)}" if violations else ""
    outcome = FAIL if violations else PASS
    return Result(invariant, outcome, invariant.level, problem, response=", ".join(violations[:5]) + more)


def _profile_problem(i: Interaction, hide: Callable[[str], str], *, exact: bool) -> str:
    """Compare a profile with the token's claims; `exact` where the token was signed here and nothing may differ."""
    members, expected = i.response.members, i.request.profile
    if members is None:
        return "not a JSON object"
    problems = [f"{name} is missing" for name in {"_id": "", **expected} if name not in members]
    for name, value in members.items():
        if name not in CLAIMS:
            problems.append(f"{hide(name)} is not a member of a profile")
        elif not isinstance(value, str) or not value:
            problems.append(f"{name} is {'null' if value is None else 'not a string, or empty'}")
        elif value != expected.get(name, "" if exact else value):
            problems.append(f"{name} differs from the token")
    return ", ".join(problems)


def _cause(url: Url, context: Context, i: Interaction, hide: Callable[[str], str]) -> Cause:
    """Find the likely cause of a rejected valid request: the endpoint's own reason, if it gives one.

    The token's age and the clock skew come first where the reason is unknown or about time.
    """
    likely, description = likely_cause(i.response, url, hide), description_of(i.response)
    if i.response.is_redirect:
        return likely
    rule, time = find_rule(description), _time_cause(context, i.response)
    description = hide(description)
    is_rejection = i.response.status in (400, 401, 403) and (i.response.members or {}).get("error") != "invalid_client"
    if time.text and (rule.reason in TIME_REASONS or (is_rejection and not rule.reason)):
        own = f" (the endpoint reports: {description})" if description else ""
        return Cause(time.text + own, time.fix, rule.reason)
    if description:
        fix = "see the log of the endpoint" if i.response.status >= 500 else likely.fix
        return Cause(f"the endpoint reports: {description}", rule.fix or fix, rule.reason)
    return likely


def _time_cause(context: Context, response: Response) -> Cause:
    try:
        exp = decode(context.valid_token())[1].get("exp")
    except ValueError:
        exp = None
    if isinstance(exp, int | float) and not isinstance(exp, bool) and exp < context.now:
        return Cause(f"time: the token expired {context.now - exp:.0f} s ago", "use a new token")
    if abs(response.clock_offset_s) > LEEWAY_S:
        return Cause(f"time: the endpoint's clock is wrong ({clock_skew(response)})", "synchronize both clocks (NTP)")
    return NO_CAUSE


def _redactor(context: Context, i: Interaction) -> Callable[[str], str]:
    """Return what makes text of the endpoint safe to show; never used for texts of this project."""
    returned = [(i.response.members or {}).get(name) for name in CLAIMS]
    secrets = [context.secret, i.request.secret, context.token, i.request.token]
    return partial(redact, secrets=secrets, personal=[*context.request().profile.values(), *returned])


def _shown(url: Url, case: Case, request: Request) -> str:
    """Describe a request without its secret and token."""
    try:
        header = f"token header {redact(json.dumps(decode(request.token)[0]), [request.secret])}"
    except ValueError:
        length = len(request.token)
        header = f"a token of {length} character{'s' * (length != 1)}"
    path = url.target(toggle_slash=request.toggle_slash).partition("?")[0]
    return f"{request.method} {path}, {case.description}; {header[:MAX_SHOWN_CHARACTERS]}"
