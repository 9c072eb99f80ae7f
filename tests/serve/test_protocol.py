"""The Open Inference Protocol over a real socket."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from tests.serve.conftest import SMALL, WEIGHTS, question, running

from modelwright.serve.limits import Limits
from modelwright.serve.server import Server

INFER = "/v2/models/cnn-tiny/infer"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def client(server: Server):
    with httpx.Client(base_url=server.url) as open_client:
        yield open_client


def expected_logits(request: dict[str, Any]) -> list[float]:
    return (np.array(request["inputs"][0]["data"], dtype=np.float32) @ WEIGHTS).tolist()


def error_of(reply: httpx.Response) -> str:
    """The error text of a reply that is an error object and nothing else."""
    body = reply.json()
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)
    assert not any(word in reply.text for word in ("Traceback", "/work", "site-packages", "0x"))
    return body["error"]


def test_metadata_and_health_say_what_the_protocol_asks(client, server):
    """Server, model and health routes answer with the documented fields, with a version too."""
    version = server.served.version
    model = {
        "name": "cnn-tiny", "versions": [version], "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, 10]}
                    for name in ("logits", "probabilities")],
    }  # fmt: skip

    assert {"name", "version", "extensions"} == client.get("/v2").json().keys()
    assert {"live": True} == client.get("/v2/health/live").json()
    assert {"live": True, "ready": True} == client.get("/v2/health/ready").json()
    for base in ("/v2/models/cnn-tiny", f"/v2/models/cnn-tiny/versions/{version}"):
        assert model == client.get(base).json()
        assert {"name": "cnn-tiny", "ready": True} == client.get(f"{base}/ready").json()
        assert 200 == client.post(f"{base}/infer", json=question()).status_code


def test_infer_echoes_the_id_and_gives_flat_outputs(client, server):
    """A flat request gets name, version, id and both outputs, equal to the matrix product."""
    asked = question() | {"id": "tag 7", "parameters": {"anything": 1}}
    reply = client.post(INFER, json=asked).json()

    assert ["cnn-tiny", server.served.version, "tag 7"] == [
        reply[key] for key in ("model_name", "model_version", "id")
    ]
    logits, probabilities = reply["outputs"]
    assert ("logits", "FP32", [1, 10]) == (logits["name"], logits["datatype"], logits["shape"])
    assert expected_logits(asked) == pytest.approx(logits["data"], rel=1e-6)
    assert 1 == pytest.approx(sum(probabilities["data"]), abs=1e-5)


def test_nested_data_equals_flat_data(client):
    """The two spellings of a tensor get the same answer, and no id comes when none was sent."""
    flat = question(rows=2)
    nested = np.array(flat["inputs"][0]["data"]).reshape(2, 1, 8, 8).tolist()

    assert (
        client.post(INFER, json=flat).json()
        == client.post(INFER, json=question(rows=2, data=nested)).json()
    )
    assert "id" not in client.post(INFER, json=flat).json()


def test_only_the_outputs_asked_for_come_back(client):
    """`outputs` chooses and orders; an empty list means all."""
    chosen = client.post(INFER, json=question() | {"outputs": [{"name": "probabilities"}]}).json()
    every = client.post(INFER, json=question() | {"outputs": []}).json()

    assert ["probabilities"] == [output["name"] for output in chosen["outputs"]]
    assert ["logits", "probabilities"] == [output["name"] for output in every["outputs"]]


def test_binary_tensors_equal_json_tensors(client):
    """The binary extension carries the same request and the same answer, in both directions."""
    asked = question(rows=3)
    raw = bytes(asked["inputs"][0].pop("data"))
    asked["inputs"][0]["parameters"] = {"binary_data_size": len(raw)}
    asked["parameters"] = {"binary_data_output": True}
    head = json.dumps(asked).encode()
    reply = client.post(INFER, content=head + raw, headers={
        LENGTH: str(len(head)), "Content-Type": "application/octet-stream"})  # fmt: skip
    length = int(reply.headers[LENGTH])
    outputs = json.loads(reply.content[:length])["outputs"]
    numbers = np.frombuffer(reply.content[length:], dtype="<f4").reshape(2, 30)
    plain = client.post(INFER, json=question(rows=3)).json()["outputs"]

    assert [120, 120] == [output["parameters"]["binary_data_size"] for output in outputs]
    for output, row in zip(plain, numbers, strict=True):
        assert np.array_equal(np.array(output["data"], dtype=np.float32), row)


def test_a_raw_body_is_one_row(client):
    """Header length 0 means: the body is the only input, one row."""
    headers = {LENGTH: "0", "Content-Type": "application/octet-stream"}
    reply = client.post(INFER, content=bytes([1, *range(1, 64)]), headers=headers)
    logits = np.frombuffer(reply.content[int(reply.headers[LENGTH]) :], dtype="<f4")[:10]

    assert expected_logits(question()) == pytest.approx(logits.tolist(), rel=1e-6)


IMAGE = question()["inputs"][0]
MALFORMED: dict[str, Any] = {
    "not json": b"{",
    "empty": b"",
    "a list": [],
    "a number": 7,
    "null": None,
    "not utf-8": b'{"id": "\xff"}',
    "NaN literal": json.dumps(question(data=[float("nan")] * 64)).encode(),
    "depth bomb": b"[" * 100_000,
    "depth within data": question(data=[[[[[[[1]]]]]]]),
    "list flood": b'{"inputs": [' + b"[]," * 200_000 + b"[]]}",
    "unknown key": question() | {"surprise": 1},
    "id a number": question() | {"id": 7},
    "parameters a list": question() | {"parameters": []},
    "parameters nested": question() | {"parameters": {"a": {}}},
    "no inputs": {},
    "empty inputs": {"inputs": []},
    "inputs an object": {"inputs": {}},
    "input a string": {"inputs": ["image"]},
    "too many inputs": {"inputs": [IMAGE, IMAGE]},
    "unknown input": question(name="imag"),
    "name a list": question(name=["image"]),
    "wrong datatype": question(datatype="FP32"),
    "datatype in lower case": question(datatype="uint8"),
    "no datatype": {"inputs": [{k: v for k, v in IMAGE.items() if k != "datatype"}]},
    "no shape": {"inputs": [{k: v for k, v in IMAGE.items() if k != "shape"}]},
    "no data": {"inputs": [{k: v for k, v in IMAGE.items() if k != "data"}]},
    "rank": question(shape=[1, 64]),
    "size": question(shape=[1, 1, 4, 16]),
    "no rows": question(shape=[0, 1, 8, 8], data=[]),
    "negative": question(shape=[-1, 1, 8, 8]),
    "shape of floats": question(shape=[1.0, 1, 8, 8]),
    "shape of booleans": question(shape=[True, True, 8, 8]),
    "huge shape": question(shape=[2**62, 1, 8, 8]),
    "too many rows": question(shape=[1025, 1, 8, 8]),
    "shape and data differ": question(shape=[2, 1, 8, 8]),
    "data a string": question(data="a" * 64),
    "data an object": question(data={}),
    "strings": question(data=["1"] * 64),
    "nulls": question(data=[None] * 64),
    "booleans": question(data=[True] * 64),
    "fractions": question(data=[1.5] * 64),
    "whole floats": question(data=[1.0] * 64),
    "300": question(data=[300] * 64),
    "-1": question(data=[-1] * 64),
    "beyond 64 bits": question(data=[2**70] * 64),
    "ragged": question(data=[[[[1] * 8] * 7 + [[1] * 7]]]),
    "half nested": question(data=[[1] * 64]),
    "mixed nesting": question(data=[[1] * 63, 1]),
    "unknown output": question() | {"outputs": [{"name": "x"}]},
    "output twice": question() | {"outputs": [{"name": "logits"}, {"name": "logits"}]},
    "outputs a string": question() | {"outputs": "logits"},
    "binary without bytes": question(parameters={"binary_data_size": 64}),
    "binary_data no flag": question()
    | {"outputs": [{"name": "logits", "parameters": {"binary_data": "yes"}}]},
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_gets_400_and_an_error_object(client, case):
    """Each row of the table is refused with one field and nothing of our insides."""
    body = MALFORMED[case]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = client.post(INFER, content=content, headers={"Content-Type": "application/json"})

    assert 400 == reply.status_code
    assert error_of(reply)


@pytest.mark.parametrize("length", ["-1", "x", "99999", "1" * 20, "10", ""])
def test_a_wrong_header_length_gets_400(client, length):
    """A JSON length outside the body, or within the JSON, is refused."""
    headers = {LENGTH: length, "Content-Type": "application/octet-stream"}
    reply = client.post(INFER, content=json.dumps(question()).encode(), headers=headers)

    assert 400 == reply.status_code
    assert error_of(reply)


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/nothing", 404), ("GET", "/v2/", 404), ("GET", "/v2/models/other", 404),
    ("GET", "/v2/models/other/ready", 404), ("POST", "/v2/models/other/infer", 404),
    ("GET", "/v2/models/cnn-tiny/versions/9", 404), ("GET", INFER, 405), ("POST", "/v2", 405),
    ("DELETE", "/v2/models/cnn-tiny", 405), ("GET", "/page/../../etc/passwd", 404),
    ("GET", "/page/%2e%2e%2fserver.py", 404), ("GET", "/page/nothing.js", 404),
])  # fmt: skip
def test_a_wrong_address_or_method_gets_404_or_405(client, method, path, status):
    """Routes that do not exist, and methods that they do not take, are told apart."""
    reply = client.request(method, path)

    assert status == reply.status_code
    assert error_of(reply)


@pytest.mark.parametrize("headers", [
    {"Content-Type": "text/plain"},
    {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    {"Content-Type": "application/json", LENGTH: "10"},
])  # fmt: skip
def test_another_content_type_gets_415(client, headers):
    """Forms, plain text and compressed bodies are refused, which also stops foreign forms."""
    reply = client.post(INFER, content=json.dumps(question()), headers=headers)

    assert 415 == reply.status_code
    assert error_of(reply)


def test_the_body_limit_is_exact(deploy):
    """A body of the limit is answered; one byte more gets 413, announced or chunked."""
    body = json.dumps(question()).encode()
    limits = Limits(body_bytes=len(body))
    headers = {"Content-Type": "application/json"}
    with running(deploy, limits=limits) as server, httpx.Client(base_url=server.url) as client:
        statuses = [
            client.post(INFER, content=content, headers=headers).status_code
            for content in (body, body + b" ", iter([body]), iter([body, b" "]))
        ]

    assert [200, 413, 200, 413] == statuses


def test_the_row_limit_is_exact(deploy):
    """A request may bring request_rows rows and not one more."""
    with running(deploy, limits=Limits(request_rows=3)) as server:
        statuses = [
            httpx.post(server.url + INFER, json=question(rows=rows)).status_code for rows in (3, 4)
        ]

    assert [200, 400] == statuses


def test_more_rows_than_ever_can_wait_are_no_matter_of_trying_again(deploy):
    """They get 413, not 503."""
    with running(deploy, limits=Limits(queue_rows=3)) as server:
        replies = [httpx.post(server.url + INFER, json=question(rows=rows)) for rows in (3, 4)]

    assert [200, 413] == [reply.status_code for reply in replies]
    assert "4 rows, where at most 3 can wait: send fewer" == replies[1].json()["error"]


def test_one_body_of_the_limit_always_has_room(deploy):
    """Also where the limit of one is above that of all together."""
    body = json.dumps(question()).encode()
    limits = Limits(body_bytes=len(body), buffered_bytes=len(body) // 2)
    headers = {"Content-Type": "application/json"}
    with running(deploy, limits=limits) as server:
        reply = httpx.post(server.url + INFER, content=body, headers=headers)

    assert 200 == reply.status_code


def test_an_answer_that_would_be_too_large_is_refused_before_it_is_computed(deploy):
    """By the numbers of all outputs, whatever of them is asked for: two of ten for each row."""
    with running(deploy, limits=Limits(answer_numbers=50)) as server:
        replies = [httpx.post(server.url + INFER, json=question(rows=rows)) for rows in (2, 3)]

    assert [200, 413] == [reply.status_code for reply in replies]
    assert "the answer would hold 60 numbers: send fewer rows" == replies[1].json()["error"]


def test_small_limits_hold_together(deploy):
    """The limits that the other tests use still serve an ordinary request."""
    with running(deploy, limits=SMALL) as server:
        assert 200 == httpx.post(server.url + INFER, json=question()).status_code
