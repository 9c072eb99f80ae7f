"""All routes in one list: the Open Inference Protocol for programs, one page for people.

server.py starts and stops what is built here; docs/reference/serving.md is the contract.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from functools import partial
from importlib import resources
from typing import Any

from modelwright import __version__
from modelwright.core.errors import MissingExtra

try:
    import orjson
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from modelwright.serve import openinference
    from modelwright.serve.served import Served, on_thread
except ImportError as error:
    raise MissingExtra(error.name or "starlette", "serve", "serving a model") from error

from modelwright.serve.limits import Access, Refused, busy

PAGE_TYPES = {"index.html": "text/html", "app.js": "text/javascript", "style.css": "text/css"}
PARSE_ASIDE_BYTES = 256 * 2**10  # a body above this is parsed on a thread, not on the event loop
LINES = "application/x-ndjson"  # of an answer that comes in pieces, to those who accept it

# The page runs its own files and shows pictures; it can be framed by nobody.
SECURITY_HEADERS = [
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; "
     b"img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
     b"frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]  # fmt: skip


def _served(request: Request) -> Served:
    return request.app.state.served  # type: ignore[no-any-return]


def _model(request: Request) -> Served:
    served = _served(request)
    if request.path_params["name"] != served.name:
        raise Refused(404, f"unknown model; this server has {served.name!r}")
    if request.path_params.get("version", served.version) != served.version:
        raise Refused(404, f"unknown version; this server has {served.version!r}")
    return served


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


async def server_metadata(request: Request) -> Response:
    """GET /v2: name, version, extensions."""
    about = {"name": "modelwright", "version": __version__}
    return _json(about | {"extensions": openinference.EXTENSIONS})


async def server_live(request: Request) -> Response:
    """GET /v2/health/live: the process answers."""
    return _json({"live": True})


async def server_ready(request: Request) -> Response:
    """GET /v2/health/ready: the model gave an answer just now."""
    if not await _served(request).ready():
        raise busy("not ready")
    # The protocol's text calls this field "live", its later editions "ready".
    return _json({"live": True, "ready": True})


async def model_metadata(request: Request) -> Response:
    """GET /v2/models/{name}: inputs and outputs."""
    served = _model(request)
    return _json(openinference.metadata(served.name, served.version, served.signature))


async def model_ready(request: Request) -> Response:
    """GET /v2/models/{name}/ready."""
    served = _model(request)
    if not await served.ready():
        raise busy("not ready")
    return _json({"name": served.name, "ready": True})


async def infer(request: Request) -> Response:
    """POST /v2/models/{name}/infer: answers for the tensors given."""
    served = _model(request)
    json_length = request.headers.get(openinference.JSON_LENGTH)
    wanted = "application/json" if json_length is None else "application/octet-stream"
    kind = request.headers.get("content-type", wanted).partition(";")[0].strip().lower()
    if kind != wanted:
        raise Refused(415, f"the content type must be {wanted}")
    async with served.intake.body(request) as body:
        read = partial(
            openinference.read, body, json_length, served.signature, served.limits, served.ids
        )
        if len(body) > PARSE_ASIDE_BYTES:
            async with served.decoding:
                asked = await on_thread(read)
        else:
            asked = read()
        numbers = openinference.answer_numbers(served.signature, asked.inputs)
        rows = len(next(iter(asked.inputs.values())))
        if rows > 1 and numbers > served.limits.answer_numbers:  # one is bounded by its places
            raise Refused(413, f"the answer would hold {numbers:,} numbers: send fewer rows")
        outputs = await served.compute(request, asked.inputs)
        content, headers = openinference.write(asked, outputs, served.name, served.version)
    return Response(content, headers=headers)


async def page_model(request: Request) -> Response:
    """GET /page/model.json: what the page shows about the model."""
    return _json(_served(request).page)


async def page_answer(request: Request) -> Response:
    """The answer to one picture, text, recording or table, as raw bytes, for the page."""
    served = _served(request)
    answers = served.answers
    if answers is None:
        raise Refused(404, "this model takes nothing that a page could send")
    medium = answers.medium
    kind = request.headers.get("content-type", "").partition("/")[0].strip().lower()
    if kind not in medium.types:
        raise Refused(415, f"send the {medium.noun}'s bytes with content type {medium.types[0]}/…")
    how = answers.how(request.query_params)
    async with served.intake.body(request) as body:
        if answers.writes == "on":
            prompt, pieces = answers.continued(body, served.session, how)
            lines = _continued(prompt, served.pieces(pieces))
            first = await anext(lines)  # what is refused before it begins has its own status
            if LINES in request.headers.get("accept", ""):
                return StreamingResponse(_as_lines(first, lines), media_type=LINES)
            last = first
            async for line in lines:
                last = line
            return _json(last)
        async with served.decoding:
            inputs, shown = await on_thread(partial(answers.read, body))
        start = time.perf_counter()
        until = asyncio.get_running_loop().time() + served.limits.deadline_s
        if answers.writes:
            outputs = await served.write(inputs, how)
        else:
            outputs = await served.compute(request, inputs)
        latency_ms = (time.perf_counter() - start) * 1000
    search = partial(answers.answer, inputs, outputs, shown, how)  # among texts it takes its time
    said = await served.aside(served.searching, search, until)
    return _json({**said, "latency_ms": round(latency_ms, 3)})


async def _continued(prompt: str, pieces: AsyncGenerator[str]) -> AsyncGenerator[dict[str, Any]]:
    """Each piece of a text that goes on, and at the end the whole of it."""
    start, found = time.perf_counter(), list[str]()
    async with contextlib.aclosing(pieces):  # whoever hangs up lets the next one write
        async for piece in pieces:
            found.append(piece)
            yield {"piece": piece}
    latency_ms = round((time.perf_counter() - start) * 1000, 3)
    yield {"prompt": prompt, "answer": "".join(found), "latency_ms": latency_ms}


async def _as_lines(
    first: dict[str, Any], rest: AsyncGenerator[dict[str, Any]]
) -> AsyncGenerator[bytes]:
    """Objects, one a line; the last one is the answer, or the error that cut it off."""
    async with contextlib.aclosing(rest):
        yield orjson.dumps(first) + b"\n"
        try:
            async for line in rest:
                yield orjson.dumps(line) + b"\n"
        except Refused as refusal:
            yield orjson.dumps({"error": refusal.message}) + b"\n"


async def page_file(request: Request) -> Response:
    """GET / and the page's own files."""
    name = request.path_params.get("file", "index.html")
    if name not in PAGE_TYPES:
        raise Refused(404, "there is nothing at this address")
    content = resources.files("modelwright.serve").joinpath("page", name).read_bytes()
    return Response(content, media_type=PAGE_TYPES[name])


ROUTES = [
    Route("/", page_file),
    Route("/page/model.json", page_model),
    Route("/page/answer", page_answer, methods=["POST"]),
    Route("/page/{file}", page_file),
    Route("/v2", server_metadata),
    Route("/v2/health/live", server_live),
    Route("/v2/health/ready", server_ready),
    Route("/v2/models/{name}", model_metadata),
    Route("/v2/models/{name}/ready", model_ready),
    Route("/v2/models/{name}/infer", infer, methods=["POST"]),
    Route("/v2/models/{name}/versions/{version}", model_metadata),
    Route("/v2/models/{name}/versions/{version}/ready", model_ready),
    Route("/v2/models/{name}/versions/{version}/infer", infer, methods=["POST"]),
]


class Gate:
    """Outermost: checks who asks, adds the security headers, lets no error text out."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS]
            await send(message)

        request = Request(scope)
        try:
            self._access.check(scope["path"], request.headers)
        except Refused as refusal:
            await _refuse(request, refusal)(scope, receive, guarded)
            return
        with contextlib.suppress(ClientDisconnect):
            await self._app(scope, receive, guarded)


def _refuse(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refused)
    body = orjson.dumps({"error": refusal.message})
    return Response(body, refusal.status, refusal.headers, media_type="application/json")


def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "there is nothing at this address", 405: "this address takes another method"}
    text = words.get(error.status_code, "this request cannot be answered")
    return _refuse(request, Refused(error.status_code, text, error.headers))


def _bug(request: Request, error: Exception) -> Response:
    return _refuse(request, Refused(500, "the server failed on this request"))


def build_app(served: Served, access: Access) -> Starlette:
    """The ASGI application of a model that is started apart from it."""
    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(Gate, access=access)],
        exception_handlers={Refused: _refuse, HTTPException: _no_route, Exception: _bug},
    )
    app.router.redirect_slashes = False
    app.state.served = served
    return app
