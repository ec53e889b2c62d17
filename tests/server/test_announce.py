"""The URL in the log of `verifier serve`."""

import asyncio
import logging
import socket

import pytest
from uvicorn import Config

from verifier.server.run import AnnouncingServer, announce


async def app(_scope, _receive, send):
    await send({"type": "lifespan.startup.complete"})


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "http://127.0.0.1:8123/profile"), ("::1", "http://[::1]:8123/profile")]
)
def test_the_url_is_logged(caplog, host, url):
    with caplog.at_level(logging.INFO, "uvicorn.error"):
        announce(Config(app, host=host, port=8123, log_config=None))
    assert caplog.messages == [f"Listening on {url}"]


def test_the_url_is_logged_when_the_server_has_started(caplog):
    asyncio.run(start(caplog))
    started, announced = (
        caplog.messages.index(text)
        for text in ("Application startup complete.", "Listening on http://127.0.0.1:8000/profile")
    )
    assert started < announced


async def start(caplog):
    config = Config(app, lifespan="on", log_config=None)
    config.load()
    server = AnnouncingServer(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server(("127.0.0.1", 0)) as sock, caplog.at_level(logging.INFO, "uvicorn.error"):
        await server.startup([sock])
        for each in server.servers:
            each.close()
