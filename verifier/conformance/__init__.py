"""`verifier check`: send the requests of escs, valid and hostile, to any Game API URL and grade the responses.

Imports no other code of this project, so that a mistake there cannot hide here; other commands use its HTTP client.
Serves the game backend developer: before the URL is entered in the escs dashboard, and in CI.
"""

# Only the client and what is light: `verifier healthcheck` should not load a cryptography library.
from verifier.conformance.causes import Cause
from verifier.conformance.client import NoResponseError, get, get_json, send
from verifier.conformance.messages import Request, Response, Url

__all__ = ["Cause", "NoResponseError", "Request", "Response", "Url", "get", "get_json", "send"]
