import os

from fastapi import FastAPI

from verifier import Settings, create_app

app = FastAPI()
app.mount("/escs", create_app(Settings.from_environment(os.environ)))


@app.get("/")
def home() -> str:
    return "the game"
