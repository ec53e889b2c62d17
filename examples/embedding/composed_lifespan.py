import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from verifier import Settings, create_app

endpoint = create_app(Settings.from_environment(os.environ))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with endpoint.lifespan_context(app):
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/escs", endpoint)


@app.get("/")
def home() -> str:
    return "the game"
