"""The HTTP connection, guarded: what uvicorn's parser leaves open, closed.

uvicorn with httptools bounds neither the size nor the time of headers, answers broken framing in
plain text, and waits for ever for a client that does not read its answer. The hooks used here are
checked by tests/serve/test_abuse.py, so an upgrade that moves them fails loudly.
"""

import asyncio
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from modelwright.serve.limits import Limits

LINGER_S = 0.5  # how long a refused client may go on sending before it is cut off


class GuardedProtocol(HttpToolsProtocol):  # type: ignore[misc]  # uvicorn is untyped here
    """One connection with a limit on open connections, header bytes, header time, write time."""

    def __init__(self, *args: Any, limits: Limits, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._limits = limits
        self._in_headers = False
        self._header_bytes = 0  # in whole headers
        self._arrived_bytes = 0  # in pieces that hold nothing but headers, whole or not
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._responses = 0
        self._refused = False
        self._refusal = (400, "the request is not valid HTTP")

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._refuse(503, "too many connections: try again", b"retry-after: 1\r\n")
            return
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_came()
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """What was sent piles up: whoever takes none of it in time is hung up on."""
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(self._limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        before = self.cycle
        only_headers = self._in_headers or before is None or before.response_complete
        super().data_received(data)
        if self._in_headers and only_headers and self.cycle is before:
            self._arrived_bytes += len(data)
            if self._arrived_bytes > self._limits.header_bytes:
                self._refuse(431, "the headers are too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers, self._header_bytes, self._arrived_bytes = True, 0, 0
        if self._header_timer is None:
            self._await_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > self._limits.header_bytes:
            self._refusal = (431, "the headers are too large")
            raise httptools.HttpParserError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._headers_came()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        self._responses += 1
        if self.transport.get_write_buffer_size():
            self.loop.call_later(self._limits.write_s, self._abort_if_stalled, self._responses)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(*self._refusal)

    def timeout_keep_alive_handler(self) -> None:
        self._abort_if_stalled(self._responses)
        super().timeout_keep_alive_handler()

    def _await_headers(self) -> None:
        self._header_timer = self.loop.call_later(
            self._limits.header_s, self._refuse, 408, "the headers did not arrive in time"
        )

    def _headers_came(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _abort_if_stalled(self, response: int) -> None:
        """Hang up on a client that has not taken its latest answer."""
        if response == self._responses and self.transport.get_write_buffer_size():
            self.transport.abort()

    def _refuse(self, status: int, message: str, header: bytes = b"") -> None:
        """Answer outside the application, and hang up."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # an earlier request is still open: this answer is not its own
            return
        body = orjson.dumps({"error": message})
        self.transport.write(
            b"HTTP/1.1 %d \r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n%s\r\n%s" % (status, len(body), header, body)
        )
        # Closing on a client that still sends would reset the connection and lose the answer.
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)
