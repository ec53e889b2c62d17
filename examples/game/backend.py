"""The game's own backend: logs players in, serves the game's page, and issues access tokens for escs.

The page hands the token to the escs plugin, escs posts it to the verifier, and the verifier returns the profile.
ACCOUNTS, `sessions` and the login stand for those of your game. What escs needs is the issuer and `issue_token`.
"""

import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyCookie
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from pydantic import BaseModel, ConfigDict

from verifier import TokenIssuer

HERE = Path(__file__).parent
ORIGIN = os.environ["GAME_ORIGIN"]  # of this backend, as a browser sends it: https://game.example
ESCS_ORIGIN = os.environ["ESCS_ORIGIN"]  # where the page loads the escs plugin from
MAX_SESSIONS = 10_000

issuer = TokenIssuer.from_directory(
    os.environ["GAME_KEYS"],
    issuer=os.environ["GAME_ISSUER"],
    application_id=os.environ["ESCS_APPLICATION_ID"],
)


@dataclass(frozen=True)
class Account:
    """A player, as the game's database would return it."""

    id: str
    username: str
    email: str


ACCOUNTS = {
    account.id: account
    for account in (
        Account("player-42", "ann", "ann@example.com"),
        Account("player-43", "Zoë <3 & friends", "zoe@example.com"),
    )
}
sessions: dict[str, Account] = {}  # oldest first; a table in the game's database


class Login(BaseModel):
    model_config = ConfigDict(extra="forbid")
    player: str


class Consent(BaseModel):
    """What the player agreed to share, beside the player id."""

    model_config = ConfigDict(extra="forbid")
    permissions: frozenset[Literal["email", "username"]]


# escs is trusted to run its plugin on the page, and nothing else may run, frame the page or receive its data.
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; script-src 'self' {ESCS_ORIGIN}; style-src 'self' {ESCS_ORIGIN}; "
    f"connect-src 'self' {ESCS_ORIGIN}; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
session_cookie = APIKeyCookie(name="session", auto_error=False)
templates = Jinja2Templates(HERE / "templates")  # escapes what it prints
app = FastAPI(openapi_url=None)
app.mount("/static", StaticFiles(directory=HERE / "static"))


@app.middleware("http")
async def protect(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Reject requests that another site's page makes in the player's name (CSRF); add the security headers."""
    if request.method in ("GET", "HEAD") or request.headers.get("origin") == ORIGIN:
        response = await call_next(request)
    else:
        response = JSONResponse({"detail": "cross-site request"}, status_code=403)
    response.headers.update(SECURITY_HEADERS)
    return response


def find_account(session: Annotated[str | None, Depends(session_cookie)]) -> Account | None:
    """Return the account of the session that the cookie names."""
    return sessions.get(session or "")


CurrentAccount = Annotated[Account | None, Depends(find_account)]


@app.get("/")
def page(request: Request, account: CurrentAccount) -> Response:
    """Serve the game to a player who is logged in, and the login to everyone else."""
    context = {"account": account, "accounts": ACCOUNTS.values(), "origin": ORIGIN, "escs_origin": ESCS_ORIGIN}
    return templates.TemplateResponse(request, "page.html", context)


@app.post("/login", status_code=204)
def log_in(login: Login, response: Response) -> None:
    """Start a session. Your game checks a password or a passkey here."""
    if login.player not in ACCOUNTS:
        raise HTTPException(401, "unknown player")
    while len(sessions) >= MAX_SESSIONS:
        del sessions[next(iter(sessions))]
    session = secrets.token_urlsafe(32)
    sessions[session] = ACCOUNTS[login.player]
    response.set_cookie("session", session, httponly=True, samesite="strict", secure=ORIGIN.startswith("https:"))


@app.post("/logout", status_code=204)
def log_out(session: Annotated[str | None, Depends(session_cookie)], response: Response) -> None:
    """End the session, also on the server."""
    sessions.pop(session or "", None)
    response.delete_cookie("session")


@app.post("/escs/token")
def issue_token(consent: Consent, account: CurrentAccount) -> dict[str, str]:
    """Issue the token for one sign-in to escs; what the player does not share is not in it."""
    if account is None:
        raise HTTPException(401, "not logged in")
    shares = consent.permissions
    return {
        "token": issuer.issue(
            account.id,
            email=account.email if "email" in shares else None,
            username=account.username if "username" in shares else None,
        )
    }
