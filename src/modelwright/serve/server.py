"""Start, drain, stop: one verified artifact behind one listening socket.

`prepare` does everything that can fail before the first request; `serve` also runs it until a
signal comes. Order at the end: not ready, no new connections, what is queued is finished within
the grace, exit code 0.
"""

import asyncio
import contextlib
import gc
import json
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelwright.core.artifact import Artifact, open_artifact
from modelwright.core.decode import settle
from modelwright.core.errors import ConfigError, MissingExtra
from modelwright.core.signature import Signature
from modelwright.runtime.decode import Writing
from modelwright.serve.answers import Answers, answers_of
from modelwright.serve.batcher import Batcher
from modelwright.serve.limits import Access, Intake, Limits

try:
    import uvicorn

    from modelwright.serve.app import build_app
    from modelwright.serve.openinference import DATATYPES
    from modelwright.serve.served import Served
    from modelwright.serve.wire import GuardedProtocol
except ImportError as error:
    raise MissingExtra(error.name or "uvicorn", "serve", "serving a model") from error


class Server(uvicorn.Server):  # type: ignore[misc]  # uvicorn is untyped here
    """uvicorn that drains the batcher first and ends with exit code 0 after a signal."""

    def __init__(
        self,
        config: Any,
        served: Served,
        listener: socket.socket,
        announce: Callable[[str, str], None] | None,
    ) -> None:
        super().__init__(config)
        self.served, self._listener, self._announce = served, listener, announce

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer until stopped.

        Raises: ConfigError if the model does not answer one row first.
        """
        with contextlib.closing(self._listener):
            super().run(sockets=sockets or [self._listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        first = asyncio.ensure_future(self.served.start())
        while not first.done() and not self.should_exit:  # a signal is heard meanwhile
            await asyncio.wait([first], timeout=0.1)
        if not first.done():
            first.cancel()
            return
        first.result()
        await super().startup(sockets=sockets)
        # A full collection walks all that was imported, 0.1 s in which nobody is answered: what is
        # here now stays. In a thread the process is another's, and so is what it collects.
        if _in_main_thread():
            gc.collect()
            gc.freeze()
        if self._announce is not None:
            self._announce(self.url, self.served.name)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.create_task(self.served.batcher.drain(self.served.limits.grace_s))
        await super().shutdown(sockets=sockets)
        draining.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn, but a handled signal is not raised again, so the process ends with 0."""
        if not _in_main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {name: signal.signal(name, self.handle_exit) for name in handled}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def serve(folder: Path, **options: Any) -> None:
    """Answer requests for the model in `folder` until SIGTERM or Ctrl-C; then drain and return.

    Options and errors as in `prepare`.
    """
    prepare(folder, **options).run()


def prepare(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    threads: int | None = None,
    api_key: str | None = None,
    name: str | None = None,
    limits: Limits | None = None,
    announce: Callable[[str, str], None] | None = None,
) -> Server:
    """A server that listens and has its model loaded, not yet running.

    Args:
        port: 0 for any free one.
        threads: of the runtime; as in the artifact's target when None.
        api_key: needed for a host beyond loopback.
        name: the model's name in addresses; family-size when None.
        announce: called with the address and the model's name once the server answers.
    Raises: IntegrityError before anything is loaded if a byte of the folder differs; ConfigError
        for a wrong folder, host, port or key; MissingExtra.
    """
    limits = limits or Limits()
    access = Access(host, api_key)
    artifact = open_artifact(folder, kinds=("deploy", "onnx"))
    served = _open(artifact, threads, name, limits)
    listener = _listen(host, port)
    config = uvicorn.Config(
        build_app(served, access),
        loop="asyncio",
        http=lambda **keywords: GuardedProtocol(limits=limits, **keywords),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=limits.grace_s + 1,  # the batcher gives up first, with a 503
    )
    return Server(config, served, listener, announce)


def _open(artifact: Artifact, threads: int | None, name: str | None, limits: Limits) -> Served:
    from modelwright.runtime.catalog import open_session

    model = artifact.manifest.get("model") or {}
    if threads is None:
        threads = int((artifact.manifest.get("target") or {}).get("threads", 1))
    if threads < 1:
        raise ConfigError(f"threads={threads}", expected="at least 1")
    if name is None:
        name = "-".join(str(model[key]) for key in ("family", "size") if key in model) or "model"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ConfigError(
            f"the model name {name!r} does not fit into an address",
            expected="letters, digits, '.', '_' and '-', at most 100",
            repair="choose another with --name",
        )
    signature = artifact.signature
    for spec in (*signature.inputs, *signature.outputs):
        if spec.dtype not in DATATYPES:
            raise ConfigError(
                f"tensor {spec.name!r} has dtype {spec.dtype!r}, which the Open Inference "
                "Protocol has no name for",
                expected="one of: " + ", ".join(DATATYPES),
            )
    answers = answers_of(artifact)
    most = answers.longest if answers else None
    if most is not None:
        limits = replace(limits, free_size=min(limits.free_size, most))
    session = open_session(artifact, threads=threads)
    if answers and answers.writes:
        session.prepare()
    return Served(
        name=name,
        version=artifact.digest[:12],
        signature=signature,
        batcher=Batcher(
            session,
            batch_rows=limits.batch_rows,
            wait_s=limits.batch_wait_s,
            queue_rows=limits.queue_rows,
            joins=_joins(signature),
        ),
        limits=limits,
        intake=Intake(limits),
        page=_page(artifact, name, answers),
        answers=answers,
        ids=_ids(signature, model.get("inputs") or {}),
        decoding=asyncio.Semaphore(limits.decodes),
        searching=asyncio.Semaphore(limits.decodes),
        session=session,
    )


def _joins(signature: Signature) -> bool:
    """Whether the first axis of every tensor is the same free size, so that rows can be joined."""
    first = {spec.shape[0] if spec.shape else 0 for spec in signature.inputs + signature.outputs}
    return len(first) == 1 and isinstance(first.pop(), str)


def _ids(signature: Signature, inputs: dict[str, Any]) -> dict[str, int]:
    """How many ids each input of them may hold, where the manifest says it."""
    most = inputs.get("vocab_size")
    sizes = {"source": inputs.get("source_vocab_size", most), "lengths": None}  # of no vocabulary
    named = {one.name: sizes.get(one.name, most) for one in signature.inputs
             if one.dtype == "int64"}  # fmt: skip
    return {name: int(size) for name, size in named.items() if size is not None}


# kinds of input that a person brings as another
TAKES = {"stream": "text", "items": "text", "ratings": "text", "pairs": "text"}


def _page(artifact: Artifact, name: str, answers: Answers | None) -> dict[str, Any]:
    """What the page shows about the model; everything from the verified folder."""
    manifest = artifact.manifest
    model = manifest.get("model") or {}
    certificate = _read(artifact, "certificate.json") or {}
    return {
        "name": name,
        "version": artifact.digest[:12],
        "task": manifest.get("task"),
        "num_params": model.get("num_params"),
        "model_bytes": artifact.model_bytes,
        "takes": TAKES.get(answers.kind, answers.kind) if answers else None,
        "answers": answers.summary if answers else "",
        "writes": _writes(answers),
        "span_kinds": answers.span_kinds if answers else [],
        "columns": answers.inputs.get("channels", []) if answers else [],
        "rows": answers.inputs["length"] if answers and answers.kind == "series" else None,
        "verdict": certificate.get("verdict"),
        "certified_rows": certificate.get("rows"),
        "goals": certificate.get("goals") or {},
        "samples": _read(artifact, "samples.json") or [],
    }


def _writes(answers: Answers | None) -> dict[str, Any] | None:
    """How a model goes on with a text, unless a request says otherwise; None if it does not."""
    if answers is None or answers.writes != "on":
        return None
    how = Writing(**settle("on", {}, answers.shipped))
    return {"max_new": how.max_new, "temperature": how.temperature}


def _read(artifact: Artifact, name: str) -> Any:
    if name not in artifact.manifest["files"]:
        return None
    return json.loads(artifact.file(name).read_bytes())


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a taken port is an error of ours with a repair."""
    host = host.strip("[]")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # asyncio turns Nagle's wait (40 ms an answer) off only where the protocol is spelled out.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error}",
            expected="an address of this machine and a port that nothing else uses",
            repair="choose another with --port; 0 takes any free one",
        ) from None
    listener.setblocking(False)
    return listener
