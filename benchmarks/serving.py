"""A crowd at the server: each answer must be its own, malformed requests get errors.

Starts `modelwright serve` on a deploy folder, sends 2,000 tagged requests at once over 100
connections (200 with --quick) and compares each answer to the model's answer to that input alone;
then malformed requests, and clients that leave. Bounds: no wrong answer, no lost one, only 4xx
with an error object for malformed ones, and a server that still answers afterwards.

    python benchmarks/serving.py RUN-OR-DEPLOY-FOLDER [--quick] [--json]
"""

import asyncio
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench import Row, arguments, at_most, exactly, finish
from modelwright.core.artifact import Artifact, open_artifact
from modelwright.runtime.catalog import open_session

CONNECTIONS = 100
TOLERANCE = 1e-4


def requests_for(artifact: Artifact, number: int) -> list[dict[str, Any]]:
    shape = [int(size) for size in artifact.signature.inputs[0].shape[1:]]
    random = np.random.default_rng(0)
    return [
        {"id": f"tag-{tag}", "inputs": [{
            "name": "image", "datatype": "UINT8", "shape": [1, *shape],
            "data": random.integers(0, 256, int(np.prod(shape))).tolist()}]}
        for tag in range(number)
    ]  # fmt: skip


async def crowd(url: str, bodies: list[dict[str, Any]]) -> tuple[list[Any], list[float], float]:
    limits = httpx.Limits(max_connections=CONNECTIONS)
    async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:

        async def ask(body: dict[str, Any]) -> tuple[Any, float]:
            started = time.perf_counter()
            answer = await client.post(url, json=body)
            return answer, time.perf_counter() - started

        started = time.perf_counter()
        found = await asyncio.gather(*(ask(body) for body in bodies))
        seconds = time.perf_counter() - started
    return [answer for answer, _ in found], [took for _, took in found], seconds


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
        answer = (
            client.post(url, content=body)
            if isinstance(body, bytes)
            else client.post(url, json=body)
        )
        error = answer.json().get("error")
        refused += 400 <= answer.status_code < 500 and isinstance(error, str)
    return len(bodies), refused


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    folder = options.folder
    folder = folder / "deploy" if (folder / "deploy").is_dir() else folder
    artifact = open_artifact(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "modelwright", "serve", str(folder), "--port", str(port),
         "--name", "model"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    base = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(timeout=30, trust_env=False) as client:
            wait_until_ready(client, base)
            bodies = requests_for(artifact, 200 if options.quick else 2000)
            url = f"{base}/v2/models/model/infer"
            answers, took, seconds = asyncio.run(crowd(url, bodies))
            sent, refused = malformed(client, url, bodies[0])
            for body in bodies[:50]:  # clients that leave before they are answered
                with socket.create_connection(("127.0.0.1", port)) as gone:
                    head = "POST /v2/models/model/infer HTTP/1.1\r\nHost: localhost\r\n"
                    gone.sendall(f"{head}Content-Length: 100\r\n\r\n{body['id']}".encode())
            after = client.post(url, json=bodies[0]).status_code
    finally:
        process.terminate()
        code = process.wait(timeout=30)
    session = open_session(artifact)
    wrong = 0
    for body, answer in zip(bodies, answers, strict=True):
        shape = body["inputs"][0]["shape"]
        image = np.array(body["inputs"][0]["data"], np.uint8).reshape(shape)
        alone = session({"image": image})["probabilities"][0]
        given = answer.json()
        outputs = {one["name"]: one["data"] for one in given.get("outputs", [])}
        same = np.allclose(outputs.get("probabilities", [np.nan]), alone, atol=TOLERANCE)
        wrong += answer.status_code != 200 or given["id"] != body["id"] or not same
    finish(
        [
            at_most("wrong or lost answers", wrong, 0),
            Row("requests", len(bodies)),
            exactly("malformed refused with an error object", refused, sent),
            exactly("status after clients left", after, 200),
            exactly("exit code after SIGTERM", code, 0),
            Row("requests per second", round(len(bodies) / seconds)),
            Row("median answer, ms", round(1e3 * statistics.median(took), 1)),
        ],
        as_json=options.json,
    )


def wait_until_ready(client: httpx.Client, base: str) -> None:
    for _ in range(200):
        try:
            if client.get(f"{base}/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("the server did not become ready")


if __name__ == "__main__":
    main()
