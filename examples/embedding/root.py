from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from verifier import Settings, create_app

settings = Settings(issuer="https://game.example", keys=Path("keys"), applications=Path("applications.json"))


def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse("the game")


app = Starlette(routes=[Route("/", home), Mount("/", create_app(settings))])
