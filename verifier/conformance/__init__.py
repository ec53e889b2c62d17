"""`verifier check`: send the requests of escs, valid and hostile, to any Game API URL and grade the responses.

Imports no other code of this project, so that a mistake there cannot hide here; its HTTP client serves other packages.
Serves the game backend developer: before the URL is entered in the escs dashboard, and in CI.
"""

from verifier.conformance.cases import CASES, MUST, SHOULD, Case
from verifier.conformance.causes import Cause
from verifier.conformance.client import NoResponseError, get, send
from verifier.conformance.forge import Context, Key
from verifier.conformance.invariants import INVARIANTS, Invariant
from verifier.conformance.messages import Request, Response, Url
from verifier.conformance.output import render_json, render_junit, render_text, tally
from verifier.conformance.redaction import escape, redact
from verifier.conformance.runner import FAIL, PASS, SKIP, Result, run, select

__all__ = [
    "CASES",
    "FAIL",
    "INVARIANTS",
    "MUST",
    "PASS",
    "SHOULD",
    "SKIP",
    "Case",
    "Cause",
    "Context",
    "Invariant",
    "Key",
    "NoResponseError",
    "Request",
    "Response",
    "Result",
    "Url",
    "escape",
    "get",
    "redact",
    "render_json",
    "render_junit",
    "render_text",
    "run",
    "select",
    "send",
    "tally",
]
