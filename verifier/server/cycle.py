"""One request and its response: the ASGI side of a connection.

Waits for the body and collects the response; when and what is written is up to the connection.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from verifier.server.request_parser import RequestParser

if TYPE_CHECKING:
    from verifier.server.connection import HttpConnection


class RequestResponseCycle:
    """One request and its response, as the application sees them (ASGI)."""

    def __init__(self, connection: "HttpConnection", request: RequestParser) -> None:
        self.connection = connection
        self.request = request
        self.scope = request.scope
        self.continue_sent = False
        self.body_delivered = False  # by receive()
        self.response_start: Any = None  # status and headers, which are written together with the body
        self.response_complete = False
        self.disconnected = False  # no response can be sent any more
        self.waiter: asyncio.Future[None] | None = None  # of the coroutine blocked in receive()

    @property
    def request_complete(self) -> bool:
        """Whether nothing of the request that matters is still to come."""
        return self.request.complete or self.request.too_large

    def wake_receiver(self) -> None:
        """Wake the coroutine blocked in receive()."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def disconnect(self) -> None:
        """End the cycle without a response."""
        self.disconnected = True
        self.wake_receiver()

    async def receive(self) -> dict[str, Any]:
        """Return the body in one message when it is complete or too large, or http.disconnect (ASGI)."""
        request, transport = self.request, self.connection.transport
        finished = self.disconnected or self.response_complete or transport.is_closing()
        if request.expects_continue and not (self.continue_sent or finished):
            self.continue_sent = True
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self.disconnected or self.response_complete or (self.request_complete and not self.body_delivered)):
            self.waiter = self.connection.loop.create_future()
            await self.waiter
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        self.body_delivered = True
        return {"type": "http.request", "body": request.take_body(), "more_body": request.too_large}

    async def send(self, message: Any) -> None:
        """Take the start of the response, or its body, and then write both (ASGI)."""
        if message["type"] == "http.response.start":
            self.response_start = message
        else:
            self.connection.send_response(self, self.response_start, message)
