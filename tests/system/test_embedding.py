"""The endpoint inside other applications: mounted, included, under a prefix, with and without its lifespan."""

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Router

from tests.support.asgi import PROFILE, REVOCATION_S, REVOKED, post, revoke
from verifier import Settings, create_app

fastapi = pytest.importorskip("fastapi", reason="needs FastAPI (make .venv/test.stamp)")


@pytest.fixture
def endpoint(game_environment: dict[str, str]) -> Router:
    return create_app(Settings.from_environment(game_environment))


# The applications that embed it. Each gets the endpoint, and the lifespan to run or None.


def fastapi_at_root(endpoint: Router, lifespan: Any) -> Any:
    app = fastapi.FastAPI(lifespan=lifespan, openapi_url=None)
    app.mount("/", endpoint)
    return app


def fastapi_under_prefix(endpoint: Router, lifespan: Any) -> Any:
    app = fastapi.FastAPI(lifespan=lifespan)
    app.mount("/escs", endpoint)
    return app


def starlette_at_root(endpoint: Router, lifespan: Any) -> Any:
    return Starlette(routes=[Mount("/", endpoint)], lifespan=lifespan)


def starlette_under_prefix(endpoint: Router, lifespan: Any) -> Any:
    return Starlette(routes=[Mount("/escs", endpoint)], lifespan=lifespan)


def starlette_under_two_prefixes(endpoint: Router, lifespan: Any) -> Any:
    return Starlette(routes=[Mount("/api", routes=[Mount("/escs", endpoint)])], lifespan=lifespan)


def fastapi_with_one_route(endpoint: Router, lifespan: Any) -> Any:
    app = fastapi.FastAPI(lifespan=lifespan)
    app.router.routes += endpoint.routes[:1]
    return app


def starlette_with_one_route_under_prefix(endpoint: Router, lifespan: Any) -> Any:
    return Starlette(routes=[Mount("/escs", routes=endpoint.routes[:1])], lifespan=lifespan)


HOSTS = {
    fastapi_at_root: "",
    fastapi_under_prefix: "/escs",
    starlette_at_root: "",
    starlette_under_prefix: "/escs",
    starlette_under_two_prefixes: "/api/escs",
    fastapi_with_one_route: "",
    starlette_with_one_route_under_prefix: "/escs",
}


@pytest.mark.parametrize("composed", [True, False], ids=["composed", "not composed"])
@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.__name__)
def test_a_revoked_key_is_rejected_within_two_seconds(host, composed, endpoint, game, game_request):
    async def sign_in_until_rejected() -> float:
        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[None]:
            async with endpoint.lifespan_context(app) if composed else nullcontext():
                yield

        app = host(endpoint, lifespan)
        async with app.router.lifespan_context(app):
            assert await post(app, f"{HOSTS[host]}/profile", game_request) == PROFILE
            revoke(game)
            since = time.monotonic()
            while (response := await post(app, f"{HOSTS[host]}/profile", game_request)) == PROFILE:
                assert time.monotonic() - since < REVOCATION_S
                await asyncio.sleep(0.01)
            assert response == REVOKED
            return time.monotonic() - since

    assert asyncio.run(sign_in_until_rejected()) < REVOCATION_S


def test_the_start_line_shows_no_setting_of_a_server_that_is_not_used(endpoint, game_request, told):
    assert asyncio.run(post(endpoint, "/profile", game_request)) == PROFILE
    start = next(line for line in told() if line["event"] == "start")
    assert start["settings"]["issuer"] == "https://game.example"
    assert start["settings"].keys() & {"host", "port", "workers", "max_connections", "keep_alive_s"} == set()


def test_what_changed_before_the_first_request_holds_for_it(endpoint, game, game_request):
    revoke(game)
    assert asyncio.run(post(endpoint, "/profile", game_request)) == REVOKED


def test_what_changed_while_no_event_loop_ran_holds_for_the_next_request(endpoint, game, game_request):
    """As in a function service, which freezes the process between two requests; here each has its own loop."""
    assert asyncio.run(post(endpoint, "/profile", game_request)) == PROFILE
    revoke(game)
    time.sleep(REVOCATION_S)  # not a condition that could be queried: nothing runs
    assert asyncio.run(post(endpoint, "/profile", game_request)) == REVOKED


@pytest.mark.parametrize("host", [host for host in HOSTS if HOSTS[host]], ids=lambda host: host.__name__)
def test_under_a_prefix_nothing_is_at_the_root(host, endpoint, game_request):
    async def responses() -> list[tuple[int, Any]]:
        app = host(endpoint, None)
        return [await post(app, path, game_request) for path in ("/profile", f"{HOSTS[host]}profile", "/profile/escs")]

    assert [status for status, _ in asyncio.run(responses())] == [404, 404, 404]


@pytest.mark.parametrize("path", ["/escs/profile", "/profile"])
def test_a_proxy_may_pass_the_prefix_on_or_remove_it(path, endpoint, game_request):
    assert asyncio.run(post(endpoint, path, game_request, root_path="/escs")) == PROFILE


@pytest.mark.parametrize(
    "path", ["/escs", "/escs/", "/escsprofile", "/escs/profile/", "/escs/escs/profile", "/profile/"]
)
def test_a_prefix_opens_no_other_path(path, endpoint, game_request):
    assert asyncio.run(post(endpoint, path, game_request, root_path="/escs")) == (404, "invalid_request")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/.well-known/jwks.json", "/openapi.json"])
def test_every_path_is_there_under_a_prefix(path, endpoint):
    app = starlette_under_prefix(endpoint, None)
    assert asyncio.run(post(app, f"/escs{path}", method="GET"))[0] == 200


def test_the_openapi_of_the_game_stays_its_own(endpoint):
    app = fastapi_with_one_route(endpoint, None)
    _, document = asyncio.run(post(app, "/openapi.json", method="GET"))
    assert (document["info"]["title"], document["paths"]) == ("FastAPI", {})


def test_a_lifespan_may_run_outside_the_main_thread(endpoint, game_request):
    """Where no handler of a signal can be installed."""
    result = []

    async def sign_in() -> None:
        async with endpoint.lifespan_context(endpoint):
            result.append(await post(endpoint, "/profile", game_request))

    thread = threading.Thread(target=asyncio.run, args=[sign_in()])
    thread.start()
    thread.join(timeout=10)
    assert result == [PROFILE]


def test_the_handler_of_sighup_is_the_hosts_own_again(endpoint):
    async def start_and_stop() -> None:
        async with endpoint.lifespan_context(endpoint):
            pass

    def handler(*_: object) -> None: ...

    before = signal.signal(signal.SIGHUP, handler)
    try:
        asyncio.run(start_and_stop())
        assert signal.getsignal(signal.SIGHUP) is handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_lifespan_may_start_and_stop_for_every_request(endpoint, game, game_request):
    async def sign_in() -> tuple[int, Any]:
        async with endpoint.lifespan_context(endpoint):
            return await post(endpoint, "/profile", game_request)

    assert [asyncio.run(sign_in()) for _ in range(3)] == [PROFILE] * 3
    revoke(game)
    time.sleep(REVOCATION_S)  # not a condition that could be queried: nothing runs
    assert asyncio.run(sign_in()) == REVOKED
