"""Plain Starlette + PyJWT's `decode`."""

import contract
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def profile(request: Request) -> JSONResponse:
    body = await request.json()
    try:
        found = contract.profile(body["code"], body["secretKey"], body["applicationId"])
    except contract.Refused as exc:
        return JSONResponse({"error": str(exc)}, 401, {"Cache-Control": "no-store"})
    return JSONResponse(found, headers={"Cache-Control": "no-store"})


if __name__ == "__main__":
    contract.serve(Starlette(routes=[Route("/profile", profile, methods=["POST"])]))
