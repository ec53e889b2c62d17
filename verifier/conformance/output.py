"""The results of a run as text, JSON and JUnit XML."""

import json
from collections import Counter
from collections.abc import Iterable
from xml.etree import ElementTree

from verifier.conformance.cases import CASES, MUST, SHOULD, Case
from verifier.conformance.forge import NEEDS_KEY
from verifier.conformance.invariants import INVARIANTS
from verifier.conformance.messages import Url
from verifier.conformance.runner import FAIL, PASS, SKIP, Result


def tally(results: Iterable[Result]) -> dict[str, dict[str, int]]:
    """Count passed, failed and skipped results for each level."""
    counts = {level: dict.fromkeys((PASS, FAIL, SKIP), 0) for level in (MUST, SHOULD)}
    for result in results:
        counts[result.level][result.outcome] += 1
    return counts


def render_text(url: Url, results: list[Result]) -> str:
    """Render the results for a person: every failure in full, then the counts."""
    lines = []
    for r in sorted((r for r in results if r.outcome == FAIL), key=lambda r: r.level):  # must before should
        lines.append(f"FAIL  {r.level:<6}  {r.item.id}: {r.item.description}: {r.problem}")
        lines += [f"      {name:<8}  {text}" for name, text in r.details().items()]
    skipped = Counter(r.problem for r in results if r.outcome == SKIP)
    lines += [f"skip  {number} {reason}" for reason, number in skipped.items()]
    for level, counts in tally(results).items():
        lines.append(f"{level:<6}  {counts[PASS]} pass, {counts[FAIL]} fail, {counts[SKIP]} skipped")
    return "\n".join([*lines, f"next    {next_step(url, results)}"])


def next_step(url: Url, results: list[Result]) -> str:
    """State what to do after a run."""
    failed = {r.level for r in results if r.outcome == FAIL}
    if MUST in failed:
        return "apply the fixes and run the same command again: the endpoint is not ready for escs"
    if SHOULD in failed:
        return "apply the fixes, or accept the impact: the endpoint is ready for escs"
    if any(r.problem == NEEDS_KEY for r in results):
        return "run it with a signing key (--keys, or --private-key and --kid): it is needed for the skipped cases"
    if len({r.item.id for r in results}) < len(CASES) + len(INVARIANTS):
        return "run it without --only: the other cases decide whether the endpoint is ready for escs"
    if not url.is_public:
        return "deploy it behind TLS, and check its public https URL before you enter that in the escs dashboard"
    return "enter the URL in the escs dashboard, and run this command in CI"


def render_json(url: Url, results: list[Result]) -> str:
    """Render the results for a program."""
    rows = [
        {
            "id": r.item.id,
            "group": r.item.group,
            "level": r.level,
            "description": r.item.description,
            "outcome": r.outcome,
            "problem": r.problem,
            "duration_s": round(r.duration_s, 3),
            **r.details(),
        }
        for r in results
    ]
    requests = sum(isinstance(r.item, Case) and r.outcome != SKIP for r in results)
    summary = {"url": str(url), "requests": requests, **tally(results), "next": next_step(url, results)}
    return json.dumps(summary | {"cases": rows}, indent=2)


def render_junit(url: Url, results: list[Result]) -> bytes:
    """Render the results as JUnit XML, one suite for each level."""
    root = ElementTree.Element("testsuites", name=f"verifier check {url}")
    for level, counts in tally(results).items():
        numbers = {"tests": sum(counts.values()), "failures": counts[FAIL], "skipped": counts[SKIP]}
        suite = ElementTree.SubElement(root, "testsuite", {"name": level} | {n: str(v) for n, v in numbers.items()})
        for r in (r for r in results if r.level == level):
            names = {"classname": f"{level}.{r.item.group}", "name": r.item.id, "time": f"{r.duration_s:.3f}"}
            case = ElementTree.SubElement(suite, "testcase", names)
            if r.outcome != PASS:
                element = {FAIL: "failure", SKIP: "skipped"}[r.outcome]
                lines = [f"{name}: {text}" for name, text in r.details().items()]
                ElementTree.SubElement(case, element, message=r.problem).text = "\n".join(lines)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"
