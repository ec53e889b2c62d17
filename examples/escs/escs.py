"""A stand-in for escs: the plugin for the game's page, and the backend that posts to the Game API URL.

The API of the real plugin differs; the request to the Game API URL is the one that escs documents.
"""

import http.client
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse
from pydantic import BaseModel

HERE = Path(__file__).parent
GAME_API_URL = os.environ["GAME_API_URL"]  # http://127.0.0.1:8000/profile
SECRET_KEY = os.environ["ESCS_SECRET_KEY"]
APPLICATION_ID = os.environ["ESCS_APPLICATION_ID"]

app = FastAPI(openapi_url=None)
# Only the game's page may post here, and without cookies.
app.add_middleware(
    CORSMiddleware,
    allow_origins=[os.environ["GAME_ORIGIN"]],
    allow_methods=["POST"],
    allow_headers=["Content-Type"],
)


class SignIn(BaseModel):
    """What the game passes to the plugin. The permissions are not part of the request to the Game API URL."""

    token: str
    permissions: list[str]


@app.get("/plugin.js")
def script() -> FileResponse:
    return FileResponse(HERE / "plugin.js")


@app.get("/plugin.css")
def style() -> FileResponse:
    return FileResponse(HERE / "plugin.css")


@app.post("/sign-in")
def sign_in(body: SignIn) -> dict[str, Any]:
    """Fetch the player's profile from the game, and return it for the plugin to show."""
    status, profile = fetch_profile(body.token)
    return {"url": GAME_API_URL, "status": status, "profile": profile}


def fetch_profile(token: str) -> tuple[int, Any]:
    """Send the request that escs documents; the secret never leaves the backend."""
    url = urlsplit(GAME_API_URL)
    connection = http.client.HTTPConnection(url.netloc, timeout=10)
    try:
        body = {"code": token, "secretKey": SECRET_KEY, "applicationId": APPLICATION_ID}
        connection.request("POST", url.path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()
