"""A tiny deploy artifact, and a real server in a thread on a free port of loopback."""

import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelwright.core import artifact
from modelwright.core.signature import Signature, TensorSpec
from modelwright.serve.limits import Limits
from modelwright.serve.server import Server, prepare

LABELS = [str(digit) for digit in range(10)]
# Whole numbers: every sum is exact in float32, so an answer is bitwise the same in any batch.
WEIGHTS = np.random.default_rng(0).integers(-3, 4, size=(64, 10)).astype(np.float32) / 64
SIGNATURE = Signature(
    (TensorSpec("image", "uint8", ("batch", 1, 8, 8)),),
    tuple(TensorSpec(name, "float32", ("batch", 10)) for name in ("logits", "probabilities")),
)

INPUTS = {"kind": "image", "shape": [1, 8, 8], "mean": [0.0], "std": [1.0]}


def _graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["numbers"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 1, 8, 8])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 10])
        for name in ("logits", "probabilities")
    ]
    weights = numpy_helper.from_array(WEIGHTS, "weights")
    graph = helper.make_graph(nodes, "tiny", [image], outputs, [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _fill(folder: Path) -> None:
    onnx.save(_graph(), str(folder / "model.onnx"))
    picture = base64.b64encode(png(np.arange(64, dtype=np.uint8).reshape(8, 8))).decode()
    samples = [{"image": f"data:image/png;base64,{picture}", "label": "3"}]
    (folder / "samples.json").write_text(json.dumps(samples))
    goal = {"bound": ">= 0.9", "measured": 0.95, "met": True, "unit": "share"}
    certificate = {"verdict": "certified", "rows": 9, "goals": {"accuracy": goal}}
    (folder / "certificate.json").write_text(json.dumps(certificate))


@pytest.fixture(scope="session")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a verified model that takes (batch, 1, 8, 8) uint8."""
    folder = tmp_path_factory.mktemp("serve") / "deploy"
    artifact.write(
        folder, "deploy", model_file="model.onnx", fill=_fill, signature=SIGNATURE,
        task="image-classification", labels=LABELS, target={"threads": 1}, extras={},
        preprocess={"files": []},
        model={"family": "cnn", "size": "tiny", "num_params": 640, "inputs": INPUTS,
               "outputs": {"kind": "classes", "num_classes": 10, "labels": LABELS}},
    )  # fmt: skip
    return folder


@contextlib.contextmanager
def running(folder: Path, **arguments: Any) -> Iterator[Server]:
    """A server that answers; stopped at the end of the block."""
    server = prepare(folder, port=0, **arguments)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    assert server.started
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def server(deploy: Path) -> Iterator[Server]:
    """One server for every test that leaves it as it was."""
    with running(deploy) as answering:
        yield answering


class FakeSession:
    """A model whose behaviour the test decides; the canary (all zeros) always passes."""

    signature = SIGNATURE

    def __init__(self, run: Callable[[np.ndarray], None]) -> None:
        self._run = run
        self.seen: list[int] = []  # the first pixel of every row that was computed

    def __call__(self, batch: Any) -> dict[str, np.ndarray]:
        image = batch["image"]
        if image.any():
            self.seen += image[:, 0, 0, 0].tolist()
            self._run(image)
        rows = image.reshape(len(image), 64).astype(np.float32)[:, :10]
        return {"logits": rows, "probabilities": rows / 256}

    def close(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[np.ndarray], None]], FakeSession]:
    """Makes the next servers run this function instead of the graph."""

    def install(run: Callable[[np.ndarray], None]) -> FakeSession:
        session = FakeSession(run)
        monkeypatch.setattr(
            "modelwright.runtime.catalog.open_session", lambda artifact, threads: session
        )
        return session

    return install


def question(first: int = 1, rows: int = 1, **fields: Any) -> dict[str, Any]:
    """A valid request whose rows begin with the pixel `first`."""
    data = [first, *range(1, 64)] * rows
    tensor = {"name": "image", "shape": [rows, 1, 8, 8], "datatype": "UINT8", "data": data}
    return {"inputs": [tensor | fields]}


SMALL = Limits(
    body_bytes=4096, request_rows=8, queue_rows=4, batch_rows=2, deadline_s=1.0, ready_s=0.3,
    header_s=0.3, body_s=0.3, keep_alive_s=0.3, header_bytes=4096, grace_s=1.0, connections=8,
)  # fmt: skip
