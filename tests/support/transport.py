"""A transport in memory for one connection, which behaves as that of an event loop."""

import asyncio
from collections import deque
from typing import Any


class Transport(asyncio.Transport):
    """Keeps what is written; delivers what is received only while reading is not paused.

    `buffered` is how many of the written bytes the client has not taken. Closing is reported to the protocol in a
    later iteration of the loop, as asyncio and uvloop do.
    """

    def __init__(self, protocol: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.protocol, self.loop = protocol, loop
        self.written = b""
        self.closing = self.ended = self.aborted = self.lost = self.paused = self.writing_paused = False
        self.client_reads = True
        self.buffered = 0
        self.high_water = 65_536
        self.incoming: deque[bytes | None] = deque()  # None: the client closes its side
        protocol.connection_made(self)

    # What the client does.

    def receive(self, *pieces: bytes | None) -> None:
        """Deliver pieces; while reading is paused they become one, as in the buffer of a socket."""
        for piece in pieces:
            if piece is not None and self.paused and self.incoming and self.incoming[-1] is not None:
                self.incoming[-1] += piece
            else:
                self.incoming.append(piece)
            self._deliver()

    def _deliver(self) -> None:
        while self.incoming and not (self.paused or self.closing or self.lost):
            piece = self.incoming.popleft()
            if piece is not None:
                self.protocol.data_received(piece)
            elif not self.protocol.eof_received():
                self.close()

    def take(self) -> None:
        """Read everything that was written, and go on reading."""
        self.client_reads, self.buffered = True, 0
        if self.writing_paused and not self.lost:
            self.writing_paused = False
            self.protocol.resume_writing()
        if self.closing:
            self._lose()

    def lose(self) -> None:
        """Reset the connection."""
        self.closing = True
        self.buffered = 0
        self._lose()

    # What the protocol does.

    def write(self, data: bytes) -> None:
        assert not self.ended, "written after the end"
        assert not self.closing, "written after close"
        self.written += data
        if not self.client_reads:
            self.buffered += len(data)
            if self.buffered > self.high_water and not self.writing_paused:
                self.writing_paused = True
                self.protocol.pause_writing()

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True
        if not self.buffered:
            self._lose()

    def abort(self) -> None:
        self.aborted = True
        self.lose()

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def set_write_buffer_limits(self, high: int | None = None, _low: int | None = None) -> None:
        self.high_water = high or 65_536

    def pause_reading(self) -> None:
        assert not self.paused
        assert not self.closing
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        assert not self.closing
        self.paused = False
        self.loop.call_soon(self._deliver)

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self.loop.call_soon(self._report_loss)

    def _report_loss(self) -> None:
        protocol, self.protocol = self.protocol, None
        protocol.connection_lost(None)
