"""FastAPI + PyJWT, as its documentation would have it written."""

import contract
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel


class SignIn(BaseModel):
    code: str
    secretKey: str
    applicationId: str


app = FastAPI()


@app.exception_handler(contract.Refused)
async def refused(_request: Request, exc: contract.Refused) -> JSONResponse:
    return JSONResponse({"error": str(exc)}, 401, {"Cache-Control": "no-store"})


@app.post("/profile")
async def profile(body: SignIn) -> dict[str, str]:
    return contract.profile(body.code, body.secretKey, body.applicationId)


if __name__ == "__main__":
    contract.serve(app)
