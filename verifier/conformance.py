"""escs, played against any Game API URL: what its answers are worth.

Level "must": what escs documents, and nobody signs in who may not. That takes in every token that a stranger can
make, and every honest token that is too old or meant for someone else. Level "should": what this project answers
beyond that; another implementation may choose otherwise.
"""

import json
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from xml.etree import ElementTree

from verifier.cases import CASES, CLAIMS, INPUT, MUST, SHOULD, Case, Kit, Lesson, read
from verifier.exchange import JSON, Answer, NoAnswer, Request, Url, likely_cause, scrub, send

PASS, FAIL, SKIP = "pass", "fail", "skip"
SLOW_S = 1.0
CLOCKS_APART_S = 5  # worth a word
LEEWAY_S = 30  # from here on good tokens are refused
CERTIFICATE_DAYS = 14
SILENT_IN_A_ROW = 3  # then the rest is not asked
SHOWN_CHARACTERS = 200
ALONE = ("profile-full", "profile-again")  # nothing about these requests is special
ERRORS = {
    "signature": "invalid_token",
    "header": "invalid_token",
    "claims": "invalid_token",
    "client": "invalid_client",
}


class Exchange(NamedTuple):
    """A case, what was sent for it, and its answer."""

    case: Case
    request: Request
    answer: Answer

    @property
    def is_refusal(self) -> bool:
        """Whether it was to be refused, and its status is not what the case is about."""
        return self.case.status >= 400 and self.case.group != "http" and not self.answer.signs_in


class Trait(NamedTuple):
    """What all answers have in common."""

    id: str
    what: str
    wrong: Callable[[Exchange], str]  # what one answer does instead, or ""
    level: str
    lesson: Lesson
    group: str = "answers"
    needs: str = ""


def _refusal_2xx(e: Exchange) -> str:
    bad = e.is_refusal and e.case.level == MUST and e.answer.is_2xx
    return f"{e.answer.status} without a profile" if bad else ""


def _refusal_status(e: Exchange) -> str:
    bad = e.is_refusal and e.answer.status != e.case.status and not _refusal_2xx(e)
    # Redirects and crashes have traits of their own.
    return f"{e.answer.status}, expected {e.case.status}" if bad and e.answer.status // 100 in (2, 4) else ""


def _refusal_json(e: Exchange) -> str:
    if not 400 <= e.answer.status < 500:
        return ""
    members = e.answer.members or {}
    if set(members) != {"error", "error_description"} or not all(isinstance(text, str) for text in members.values()):
        return "other JSON" if members else "not JSON"
    code = ERRORS[e.case.group] if e.case.status == 401 else "invalid_request"
    return f"error is not {code}" if members["error"] != code and e.answer.status == e.case.status else ""


def _json_type(e: Exchange) -> str:
    return "" if e.answer.media_type == JSON else "another Content-Type"


def _no_store(e: Exchange) -> str:
    return "" if "no-store" in e.answer.headers.get("cache-control", "").lower() else "no Cache-Control: no-store"


def _no_redirect(e: Exchange) -> str:
    return f"{e.answer.status}" if 300 <= e.answer.status < 400 else ""


def _no_crash(e: Exchange) -> str:
    return f"{e.answer.status}" if e.answer.status >= 500 and e.case.group != "http" else ""


def _no_echo(e: Exchange) -> str:
    text = "\n".join((*e.answer.headers.values(), e.answer.body.decode("utf-8", "replace")))
    sent = [value for value in (e.request.secret, e.request.token) if isinstance(value, str) and len(value) > 7]
    return "repeats what was sent" if any(value in text for value in sent) else ""


def _fast(e: Exchange) -> str:
    return f"{e.answer.seconds:.1f} s" if e.answer.seconds > SLOW_S else ""


def _clock(e: Exchange) -> str:
    offset = e.answer.clock_offset_s
    return f"{abs(offset):.0f} s {'ahead' if offset > 0 else 'behind'}" if abs(offset) > CLOCKS_APART_S else ""


def _certificate(e: Exchange) -> str:
    days = e.answer.tls[1] if e.answer.tls else CERTIFICATE_DAYS
    return f"ends in {days:.0f} days" if days < CERTIFICATE_DAYS else ""


STATUS = Lesson(
    "escs cannot tell a 2xx from a success, and a caller reads the status before the body",
    "answer 401 for a refused token or secret and 400 for a request that is not escs's",
)
ERROR = Lesson(
    "a developer reads the reason in the answer; an HTML page, or JSON of another shape, hides it",
    "answer every error with application/json and {error: invalid_token, invalid_client or invalid_request, "
    "error_description: the reason}, the framework's own errors too",
)
CACHE = Lesson("a cache on the way would keep the player's e-mail", "set Cache-Control: no-store on every answer")
REDIRECT = Lesson("who follows it sends the secret again, perhaps in clear", "turn redirects of slashes and hosts off")
ECHO = Lesson("answers end up in logs, and the secret with them", "answer fixed texts; never repeat the request")
FAST = Lesson(
    "the player waits, and how long escs does is not documented", "keep the service warm and near, no look-ups"
)
CLOCK = Lesson("tokens last minutes; a clock that is off refuses good ones", "synchronize both clocks (NTP)")
RENEW = Lesson("nobody signs in once it has ended", "renew the certificate, and see that it renews itself")

TRAITS = [
    Trait("refusal-2xx", "no refusal has a 2xx status", _refusal_2xx, MUST, STATUS),
    Trait("refusal-status", "refusals are 401 for token and client, 400 for the body", _refusal_status, SHOULD, STATUS),
    Trait("refusal-json", "errors are {error, error_description}", _refusal_json, SHOULD, ERROR),
    Trait("json-type", "every answer is application/json", _json_type, SHOULD, ERROR),
    Trait("no-store", "every answer says Cache-Control: no-store", _no_store, SHOULD, CACHE),
    Trait("no-redirect", "no answer is a redirect", _no_redirect, SHOULD, REDIRECT),
    Trait("no-crash", "no answer is a 5xx", _no_crash, SHOULD, INPUT),
    Trait("no-echo", "no answer repeats the secret or the token", _no_echo, SHOULD, ECHO),
    Trait("fast", f"every answer is here within {SLOW_S:g} s", _fast, SHOULD, FAST),
    Trait("clock", f"Date is within {CLOCKS_APART_S} s of this clock", _clock, SHOULD, CLOCK),
    Trait("certificate", f"the certificate lasts {CERTIFICATE_DAYS} more days", _certificate, SHOULD, RENEW),
]


@dataclass(frozen=True)
class Result:
    """What became of a case or trait. Holds no secret, no token and nothing personal."""

    about: Case | Trait
    outcome: str
    level: str  # may be milder than the case's
    problem: str = ""  # of a failure; why, when it was skipped
    sent: str = ""
    came: str = ""
    cause: str = ""
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether the request was to be answered with a profile."""
        return isinstance(self.about, Case) and self.about.status == 200

    def told(self) -> dict[str, str]:
        """What a reader needs to know about a failure, each under its name."""
        why, mend = self.about.lesson
        cause, _, remedy = self.cause.partition("; ")
        if cause:
            why = "nobody signs in while a good request is not answered" if self.is_good else why
            mend = remedy
        texts = {"sent": self.sent, "came": self.came, "cause": cause, "why": why, "mend": mend}
        return {name: text for name, text in texts.items() if text} if self.outcome == FAIL else {}


def select(only: Iterable[str]) -> list[Case | Trait]:
    """What has one of these ids or groups, or everything; raises ValueError for a word that is neither."""
    everything: list[Case | Trait] = [*CASES, *TRAITS]
    wanted = set(only)
    unknown = wanted - {name for about in everything for name in (about.id, about.group)}
    if unknown:
        raise ValueError(f"no case or group is called {', '.join(sorted(unknown))}")
    chosen = [about for about in everything if not wanted or wanted & {about.id, about.group}]
    # Traits alone are judged by one good request.
    return chosen if any(isinstance(about, Case) for about in chosen) else [CASES[0], *chosen]


def run(url: Url, kit: Kit, chosen: Iterable[Case | Trait], timeout_s: float) -> Iterator[Result]:
    """One request for each case and none for a trait; each result as soon as it is known.

    Stops asking where the rest would say the same again: no answer to the first request or to three
    in a row, or a good token that is not answered with a player.
    """
    tls = ssl.create_default_context() if url.https else None
    exchanges: list[Exchange] = []
    asked = silent = 0
    stopped = ""
    for about in chosen:
        reason = stopped or kit.lacks(about.needs)
        if reason:
            yield Result(about, SKIP, about.level, reason)
        elif isinstance(about, Trait):
            yield _judge_trait(about, exchanges)
        else:
            asked += 1
            request = about.make(kit)
            try:
                exchange = Exchange(about, request, send(url, request, timeout_s=timeout_s, tls=tls))
            except NoAnswer as exc:
                silent += 1
                if asked == 1 or silent == SILENT_IN_A_ROW:
                    stopped = "not asked: there was no answer before"
                # No answer to a bad token is at least no success.
                level = about.level if stopped or about.status == 200 else SHOULD
                yield Result(about, FAIL, level, "no answer", _sent(url, about, request), cause=str(exc))
            else:
                silent = 0
                exchanges.append(exchange)
                if about is CASES[0] and not exchange.answer.signs_in:
                    stopped = "not asked: a good token has to be answered with a profile first"
                yield _judge(url, kit, exchange)


def _judge(url: Url, kit: Kit, e: Exchange) -> Result:
    problem, cause, status = "", "", e.answer.status
    if e.case.status == 200:
        problem = "" if e.answer.signs_in else f"refused with {status}"
        if e.case.group == "profile" and e.answer.is_2xx:
            problem = _profile_problem(e, exact=kit.key is not None)
        # After profile-full, only what may happen to any request is a cause; the rest is about the case.
        general = status // 100 in (3, 5) or status == 429 or e.case.id in ALONE
        cause = _cause(url, kit, e) if problem and general else ""
    elif e.case.id == "other-slash":
        problem = "" if status in (200, 404) else f"{status}, expected 404"
    elif e.case.group == "http":
        allow = status == 405 and "allow" not in e.answer.headers
        problem = "405 without Allow" if allow else f"{status}, expected {e.case.status}" * (status != e.case.status)
    elif e.answer.signs_in:
        problem = "accepted"
    if not problem:
        return Result(e.case, PASS, e.case.level, seconds=e.answer.seconds)
    kind = e.answer.headers.get("content-type", "no Content-Type")
    came = f"{status}, {kind}: {e.answer.body.decode('utf-8', 'replace')}"
    problem, came, cause = (scrub(text, _private(kit, e))[:SHOWN_CHARACTERS] for text in (problem, came, cause))
    sent = _sent(url, e.case, e.request)
    return Result(e.case, FAIL, e.case.level, problem, sent, came, cause, e.answer.seconds)


def _judge_trait(trait: Trait, exchanges: Iterable[Exchange]) -> Result:
    wrong = [f"{e.case.id} ({text})" for e in exchanges if (text := trait.wrong(e))]
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    problem = f"{len(wrong)} answer(s)" if wrong else ""
    return Result(trait, FAIL if wrong else PASS, trait.level, problem, came=", ".join(wrong[:5]) + more)


def _profile_problem(e: Exchange, *, exact: bool) -> str:
    """What is wrong with a profile; held against the token's claims, alone where the token was made here."""
    members, expected = e.answer.members, e.request.profile
    if members is None:
        return "not a JSON object"
    problems = [f"{name} is missing" for name in {"_id": "", **expected} if name not in members]
    for name, value in members.items():
        if name not in CLAIMS:
            problems.append(f"{name} is not a member of a profile")
        elif not isinstance(value, str) or not value:
            problems.append(f"{name} is {'null' if value is None else 'not a text, or empty'}")
        elif value != expected.get(name, "" if exact else value):
            problems.append(f"{name} is not the token's")
    return ", ".join(problems)


def _cause(url: Url, kit: Kit, e: Exchange) -> str:
    """The likely cause of a refused good token: time first, because nothing else shows it."""
    if e.answer.status not in (400, 401, 403) or (e.answer.members or {}).get("error") == "invalid_client":
        return likely_cause(e.answer, url)
    try:
        exp = read(kit.good())[1].get("exp")
    except ValueError:
        exp = None
    if isinstance(exp, int | float) and exp < kit.now:
        return f"time: the token expired {kit.now - exp:.0f} s ago; give a fresh one"
    if abs(e.answer.clock_offset_s) > LEEWAY_S:
        return f"time: the endpoint's clock is off ({_clock(e)}); synchronize both clocks"
    return likely_cause(e.answer, url)


def _private(kit: Kit, e: Exchange) -> list[Any]:
    """What may not be shown of an answer."""
    answered = [(e.answer.members or {}).get(name) for name in CLAIMS]
    return [kit.secret, e.request.secret, kit.token, e.request.token, *kit.ask().profile.values(), *answered]


def _sent(url: Url, case: Case, request: Request) -> str:
    try:
        header = f"token header {json.dumps(read(request.token)[0])}"
    except ValueError:
        header = f"a token of {len(request.token)} characters"
    path = url.target(other_slash=request.other_slash).partition("?")[0]
    return f"{request.method} {path}, {case.what}; {scrub(header, [request.secret])[:SHOWN_CHARACTERS]}"


def tally(results: Iterable[Result]) -> dict[str, dict[str, int]]:
    """How many passed, failed and were skipped, for each level."""
    counts = {level: dict.fromkeys((PASS, FAIL, SKIP), 0) for level in (MUST, SHOULD)}
    for result in results:
        counts[result.level][result.outcome] += 1
    return counts


def as_text(results: list[Result]) -> str:
    """The results for a person: every failure in full, then the counts."""
    lines = []
    for r in sorted((r for r in results if r.outcome == FAIL), key=lambda r: r.level):  # must before should
        lines.append(f"FAIL  {r.level:<6}  {r.about.id}: {r.about.what}: {r.problem}")
        lines += [f"      {name:<6}  {text}" for name, text in r.told().items()]
    skipped = Counter(r.problem for r in results if r.outcome == SKIP)
    lines += [f"skip  {number} {reason}" for reason, number in skipped.items()]
    for level, counts in tally(results).items():
        lines.append(f"{level:<6}  {counts[PASS]} pass, {counts[FAIL]} fail, {counts[SKIP]} skipped")
    return "\n".join(lines)


def as_json(url: Url, results: list[Result]) -> str:
    """The results for a program."""
    rows = [
        {
            "id": r.about.id,
            "group": r.about.group,
            "level": r.level,
            "what": r.about.what,
            "outcome": r.outcome,
            "problem": r.problem,
            "seconds": round(r.seconds, 3),
            **r.told(),
        }
        for r in results
    ]
    asked = sum(isinstance(r.about, Case) and r.outcome != SKIP for r in results)
    return json.dumps({"url": str(url), "asked": asked, **tally(results), "cases": rows}, indent=2)


def as_junit(url: Url, results: list[Result]) -> bytes:
    """The results as JUnit XML, one suite for each level."""
    root = ElementTree.Element("testsuites", name=f"verifier check {url}")
    for level, counts in tally(results).items():
        numbers = {"tests": sum(counts.values()), "failures": counts[FAIL], "skipped": counts[SKIP]}
        suite = ElementTree.SubElement(root, "testsuite", {"name": level} | {n: str(v) for n, v in numbers.items()})
        for r in (r for r in results if r.level == level):
            names = {"classname": f"{level}.{r.about.group}", "name": r.about.id, "time": f"{r.seconds:.3f}"}
            case = ElementTree.SubElement(suite, "testcase", names)
            if r.outcome != PASS:
                element = {FAIL: "failure", SKIP: "skipped"}[r.outcome]
                lines = [f"{name}: {text}" for name, text in r.told().items()]
                ElementTree.SubElement(case, element, message=r.problem).text = "\n".join(lines)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"
