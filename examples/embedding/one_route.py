import os

from fastapi import FastAPI

from verifier import Settings, create_app

app = FastAPI(redirect_slashes=False)
endpoint = create_app(Settings.from_environment(os.environ))
app.router.routes.append(endpoint.routes[0])


@app.get("/")
def home() -> str:
    return "the game"
