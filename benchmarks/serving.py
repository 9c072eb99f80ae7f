"""A crowd at the server: each answer must be its own, malformed requests get errors.

Serves a deploy folder from a process of its own and asks it twice, each answer compared with the
model's answer to that input alone: 2,000 tagged requests at once, each on its own open connection
(the server's limit on connections, 512, is raised for it; its other limits are the defaults), and
10,000 over 64 connections that ask again as soon as they are answered. Then malformed requests,
and clients that leave. Bounds: no wrong answer, no lost one, only 4xx with an error object for
malformed ones, and a server that still answers afterwards.

The folder has to be one of image-classification: requests are pictures, answers their
probabilities. The client writes bytes made beforehand and reads answers after the clock has
stopped; it shares the machine with the server, so its share of a core is printed too.

    python benchmarks/serving.py RUN-OR-DEPLOY-FOLDER [--quick] [--json]
"""

import asyncio
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench import Row, arguments, at_most, exactly, finish
from modelwright.core.artifact import Artifact, open_artifact
from modelwright.runtime.catalog import open_session

CONNECTIONS, ROUNDS = 64, 5  # of the steady phase
SPARE_FILES = 100  # what client and server have open beside the connections
TIMEOUT_S = 60.0
TOLERANCE = 1e-4
INFER = "/v2/models/model/infer"
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)

# Says its address once it answers, and on SIGUSR1 how many batches and rows it has computed.
SERVER = """
import signal, sys
from pathlib import Path
from modelwright.serve.limits import Limits
from modelwright.serve.server import prepare
server = prepare(
    Path(sys.argv[1]), port=0, name="model", limits=Limits(connections=int(sys.argv[2])),
    announce=lambda url, name: print(url, flush=True),
)
count = server.served.batcher
signal.signal(signal.SIGUSR1, lambda *_: print(count.batches, count.rows, flush=True))
server.run()
"""


@dataclass
class Answer:
    status: int
    body: bytes
    seconds: float


@dataclass
class Phase:
    """What one crowd got; None for an answer that never came."""

    answers: list[Answer | None]
    seconds: float
    client_share: float  # of one core
    batch: float = 0.0  # mean rows a batch

    def rows(self, name: str, asked: list[tuple[dict[str, Any], np.ndarray]]) -> list[Row]:
        """The figures; `asked` is each request's body, and what the model says to it alone."""
        pairs = zip(self.answers, asked, strict=True)
        took = 1e3 * np.array([answer.seconds for answer in self.answers if answer])
        p50, p99 = np.percentile(took, [50, 99]) if took.size else (np.nan, np.nan)
        return [
            at_most(f"{name}: wrong or lost", sum(not is_own(a, *one) for a, one in pairs), 0),
            Row(f"{name}: requests per second", round(took.size / self.seconds)),
            Row(f"{name}: answer p50, ms", round(float(p50), 1)),
            Row(f"{name}: answer p99, ms", round(float(p99), 1)),
            Row(f"{name}: mean batch, rows", round(self.batch, 1)),
            Row(f"{name}: client, share of a core", round(self.client_share, 2)),
        ]


class Caller(asyncio.Protocol):
    """One kept connection: takes the next message as soon as the last one is answered."""

    def __init__(self, todo: Iterator[tuple[int, bytes]], answers: list[Answer | None]) -> None:
        self.todo, self.answers = todo, answers
        self.finished = asyncio.get_running_loop().create_future()
        self.came = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self) -> None:
        self.tag, message = next(self.todo, (-1, b""))
        if message:
            self.sent = time.perf_counter()
            self.transport.write(message)
        else:
            self.finished.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.came += data
        head, _, body = self.came.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if length and len(body) >= int(length[1]):
            seconds = time.perf_counter() - self.sent
            self.answers[self.tag] = Answer(int(head[9:12]), body, seconds)
            self.came = b""
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.finished.done():
            self.finished.set_result(None)


async def crowd(port: int, messages: list[bytes], connections: int) -> Phase:
    """Open every connection, then start the clock and let them share the messages."""
    answers: list[Answer | None] = [None] * len(messages)
    todo = iter(list(enumerate(messages)))
    loop = asyncio.get_running_loop()
    callers = [
        (await loop.create_connection(lambda: Caller(todo, answers), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    started, worked = time.perf_counter(), time.process_time()
    for caller in callers:
        caller.ask()
    await asyncio.wait([caller.finished for caller in callers], timeout=TIMEOUT_S)
    seconds, work = time.perf_counter() - started, time.process_time() - worked
    for caller in callers:
        caller.transport.close()
    return Phase(answers, seconds, work / seconds)


def takes_pictures(artifact: Artifact) -> bool:
    """Whether it gives probabilities of pictures (uint8) of one size, which is what is asked."""
    signature = artifact.signature
    return (
        [spec.dtype for spec in signature.inputs] == ["uint8"]
        and all(isinstance(size, int) for size in signature.inputs[0].shape[1:])
        and any(spec.name == "probabilities" for spec in signature.outputs)
    )


def requests_for(artifact: Artifact, number: int) -> list[dict[str, Any]]:
    (spec,) = artifact.signature.inputs
    shape = [int(size) for size in spec.shape[1:]]
    random = np.random.default_rng(0)
    return [
        {"id": f"tag-{tag}", "inputs": [{
            "name": spec.name, "datatype": "UINT8", "shape": [1, *shape],
            "data": random.integers(0, 256, int(np.prod(shape))).tolist()}]}
        for tag in range(number)
    ]  # fmt: skip


def message(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def is_own(answer: Answer | None, body: dict[str, Any], alone: np.ndarray) -> bool:
    """Whether the answer carries the request's tag and what the model says to it alone."""
    if answer is None or answer.status != 200:
        return False
    given = json.loads(answer.body)
    outputs = {one["name"]: one["data"] for one in given["outputs"]}
    return given["id"] == body["id"] and np.allclose(
        outputs["probabilities"], alone, atol=TOLERANCE
    )


def malformed(client: httpx.Client, url: str, good: dict[str, Any]) -> tuple[int, int]:
    """How many malformed requests were sent, and how many got a 4xx with an error object."""
    tensor = good["inputs"][0]
    bodies: list[bytes | dict[str, Any]] = [
        b"", b"{", b"[]", b"\xff\xfe", b"[" * 5000, {"inputs": []}, {"inputs": [tensor, tensor]},
        {"inputs": [{**tensor, "name": "picture"}]}, {"inputs": [{**tensor, "datatype": "FP32"}]},
        {"inputs": [{**tensor, "shape": [2, *tensor["shape"][1:]]}]},
        {"inputs": [{**tensor, "shape": [1, 3]}]}, {"inputs": [{**tensor, "data": [300]}]},
        {"inputs": [{**tensor, "data": [1.5] * len(tensor["data"])}]},
        {"inputs": [{**tensor, "data": ["a"] * len(tensor["data"])}]},
        {"inputs": [tensor], "outputs": [{"name": "nothing"}]},
    ]  # fmt: skip
    refused = 0
    for body in bodies:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = client.post(url, content=content, headers={"Content-Type": "application/json"})
        error = answer.json().get("error")
        refused += 400 <= answer.status_code < 500 and isinstance(error, str)
    return len(bodies), refused


def connections_permitted(wanted: int) -> int:
    """At most `wanted`, within the limit on open files, which is raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft - SPARE_FILES


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    folder = options.folder
    folder = folder / "deploy" if (folder / "deploy").is_dir() else folder
    artifact = open_artifact(folder)
    if not takes_pictures(artifact):
        parser.error(
            f"{folder} is of {artifact.manifest['task']}; requests are pictures here: give a run "
            "or deploy folder of image-classification"
        )
    bodies = requests_for(artifact, 200 if options.quick else 2000)
    messages = [message(body) for body in bodies]
    at_once = connections_permitted(len(bodies))
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder), str(at_once + CONNECTIONS)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def said() -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def computed() -> np.ndarray:
        """Batches and rows so far."""
        process.send_signal(signal.SIGUSR1)
        return np.array(said().split(), int)

    def phase(messages: list[bytes], connections: int) -> Phase:
        before = computed()
        found = asyncio.run(crowd(port, messages, connections))
        batches, rows = computed() - before
        found.batch = rows / max(batches, 1)
        return found

    try:
        base = said()
        port = int(base.rpartition(":")[2])
        together = phase(messages, at_once)
        steady = phase(messages * ROUNDS, CONNECTIONS)
        with httpx.Client(timeout=30, trust_env=False) as client:
            sent, refused = malformed(client, base + INFER, bodies[0])
            for one in messages[:50]:  # clients that leave before they have asked to the end
                with socket.create_connection(("127.0.0.1", port)) as gone:
                    gone.sendall(one[: len(one) // 2])
            after = client.post(base + INFER, json=bodies[0]).status_code
    finally:
        process.terminate()
        code = process.wait(timeout=30)
    session = open_session(artifact)
    (spec,) = artifact.signature.inputs
    alone = []
    for body in bodies:
        tensor = body["inputs"][0]
        image = np.array(tensor["data"], np.uint8).reshape(tensor["shape"])
        alone.append(session({spec.name: image})["probabilities"][0])
    asked = list(zip(bodies, alone, strict=True))
    finish(
        [
            *together.rows(f"{len(bodies):,} over {at_once:,} connections", asked),
            *steady.rows(
                f"{len(bodies) * ROUNDS:,} over {CONNECTIONS} connections", asked * ROUNDS
            ),
            exactly("malformed refused with an error object", refused, sent),
            exactly("status after clients left", after, 200),
            exactly("exit code after SIGTERM", code, 0),
        ],
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
