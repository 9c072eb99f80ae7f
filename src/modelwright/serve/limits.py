"""Everything that a stranger can abuse, on one page: sizes, times, counts, keys, origins.

Read by every file of this room; docs/reference/serving.md prints the table. A request that goes
past a limit raises `Refused`, which becomes `{"error": …}` with its status and nothing else.
"""

import asyncio
import hmac
import ipaddress
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelwright.core.errors import ConfigError

if TYPE_CHECKING:
    from starlette.requests import Request

MIN_KEY_LENGTH = 16

# Probes of a cluster carry no key, and the files of the page hold nothing about the model.
OPEN_PATHS = frozenset(
    {"/", "/page/app.js", "/page/style.css", "/v2/health/live", "/v2/health/ready"}
)


@dataclass(frozen=True)
class Limits:
    """What one server takes on; from Python any of them can be set, on the command line of `serve`
    `deadline_s`, `batch_rows`, `queue_rows`, `body_bytes` (as --body-mib) and `grace_s`."""

    body_bytes: int = 16 * 2**20  # one request
    buffered_bytes: int = 128 * 2**20  # all bodies in memory at once
    header_bytes: int = 32 * 2**10  # request line and headers
    json_depth: int = 16  # lists in lists
    decodes: int = 2  # files being unpacked at once; answers of the page being searched for
    request_rows: int = 1024  # rows in one request
    free_size: int = 2**20  # places of one row, where a model leaves them free; less by the model
    answer_numbers: int = 2**25  # in one answer, whatever of it is asked for
    queue_rows: int = 4096  # rows waiting for the model
    batch_rows: int = 64  # rows that the model sees at once
    batch_wait_s: float = 0.001  # how long a row waits for company, under load only
    connections: int = 512  # open at once; below the usual limit on open files
    header_s: float = 10.0  # from the first byte (or the connection) to the end of the headers
    body_s: float = 20.0  # from the headers to the end of the body
    deadline_s: float = 10.0  # from the whole request to its answer
    write_s: float = 20.0  # for the client to take its answer
    keep_alive_s: float = 15.0  # an idle connection
    ready_s: float = 2.0  # for the canary behind readiness
    start_s: float = 60.0  # for the first one: a large model takes long to warm up
    grace_s: float = 10.0  # for what is queued when the server is told to stop

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "batch_wait_s" else 1 if isinstance(value, int) else 0.001
            if not value >= least:
                raise ConfigError(f"limit {name}={value}", expected=f"at least {least}")


class Refused(Exception):
    """A request that gets an error object instead of an answer."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


def busy(message: str) -> Refused:
    """503 with the advice to come back in a second."""
    return Refused(503, message, {"Retry-After": "1"})


def is_loopback(host: str) -> bool:
    """Whether binding to `host` keeps other machines out.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost")
    (True, True, True)
    >>> is_loopback("0.0.0.0"), is_loopback("example.org"), is_loopback("")
    (False, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Access:
    """Who may ask: a key beyond loopback, and no foreign web page on loopback.

    Raises: ConfigError for an address beyond loopback without a key, or for a weak key.
    """

    host: str
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        key = self.api_key
        if key is None:
            if not is_loopback(self.host):
                raise ConfigError(
                    f"{self.host or 'an empty host'} can be reached from other machines and no API "
                    "key is set",
                    expected="an API key for any address beyond loopback",
                    repair="set MODELWRIGHT_API_KEY, or serve on --host 127.0.0.1",
                )
        elif len(key) < MIN_KEY_LENGTH or not re.fullmatch(r"[!-~]+", key):
            raise ConfigError(
                f"the API key has {len(key)} characters, or characters that a header cannot carry",
                expected=f"at least {MIN_KEY_LENGTH} letters, digits or signs without blanks",
                repair="python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            )

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Let a request through or refuse it.

        A page on another site can make a browser send requests to loopback, under a name that
        it points here (DNS rebinding) or with its own Origin; both are turned away.
        Raises: Refused 400, 401 or 403.
        """
        if is_loopback(self.host):
            host = headers.get("host", "")
            if not host:
                raise Refused(400, "the Host header is missing")
            if not is_loopback(_name(host)):
                raise Refused(403, "this server answers only to 127.0.0.1, [::1] and localhost")
            origin = headers.get("origin")
            if origin is not None and origin.lower() != f"http://{host.lower()}":
                raise Refused(403, "this server answers no other web page")
        if self.api_key is not None and path not in OPEN_PATHS:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode(), self.api_key.encode())
            if scheme.lower() != "bearer" or not right:
                raise Refused(
                    401, "the API key is missing or wrong: send Authorization: Bearer <key>",
                    {"WWW-Authenticate": "Bearer"},
                )  # fmt: skip


def _name(host: str) -> str:
    """The Host header without its port."""
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0].lower()


class Intake:
    """Reads bodies: within the size, within the time, and within the memory of all together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most = max(limits.buffered_bytes, limits.body_bytes)  # one body always has room
        self._held = 0

    @asynccontextmanager
    async def body(self, request: "Request") -> AsyncIterator[bytes]:
        """The whole body, held against the common budget until the block ends.

        Raises: Refused 400, 408, 413, 415 or 503.
        """
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "compressed bodies are not accepted: send the body as it is")
        chunks: list[bytes] = []
        size = 0
        try:
            try:
                async with asyncio.timeout(self._limits.body_s):
                    await self._check_length(request)
                    async for chunk in request.stream():
                        size += len(chunk)
                        self._held += len(chunk)
                        chunks.append(chunk)
                        if size > self._limits.body_bytes:
                            await self._too_large(request)
                        if self._held > self._most:
                            raise busy("too many large requests at once: try again")
            except TimeoutError:
                raise Refused(
                    408, "the body did not arrive in time", {"Connection": "close"}
                ) from None
            yield chunks[0] if len(chunks) == 1 else b"".join(chunks)
        finally:
            self._held -= size

    async def _check_length(self, request: "Request") -> None:
        length = request.headers.get("content-length", "0")
        if len(length) > 15 or int(length) > self._limits.body_bytes:
            await self._too_large(request)

    async def _too_large(self, request: "Request") -> None:
        # A client that is still sending would see a reset instead of the answer: let it finish,
        # within a second and the size of one body more. One that asks first hears it at once.
        if "100-continue" not in request.headers.get("expect", "").lower():
            with_more = 0
            try:
                async with asyncio.timeout(1.0):
                    async for chunk in request.stream():
                        with_more += len(chunk)
                        if with_more > self._limits.body_bytes:
                            break
            except (TimeoutError, RuntimeError):  # RuntimeError: the stream is already at its end
                pass
        raise Refused(
            413, f"the body is larger than {self._limits.body_bytes} bytes", {"Connection": "close"}
        )
