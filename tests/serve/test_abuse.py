"""Strangers, crowds and faults over a real socket."""

import asyncio
import json
import shutil
import socket
import threading
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from tests.serve.conftest import SMALL, WEIGHTS, png, question, running

from modelwright.core.errors import ConfigError, IntegrityError
from modelwright.serve.answers import Answers
from modelwright.serve.limits import Access, Limits, Refused
from modelwright.serve.served import Served
from modelwright.serve.server import prepare

INFER = "/v2/models/cnn-tiny/infer"
KEY = "correct-horse-battery"


def port_of(server: Any) -> int:
    return int(server.url.rpartition(":")[2])


def raw(server: Any, *pieces: bytes, wait_s: float = 2.0) -> bytes:
    """Send bytes as they are; everything that came back until the server hung up."""
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=wait_s) as connection:
        answer = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            while part := connection.recv(65536):
                answer += part
        except (TimeoutError, ConnectionError):
            pass
        return answer


def request_bytes(body: bytes, path: str = INFER) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def wait_until(condition: Any, seconds: float = 3.0) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def test_2000_concurrent_requests_each_get_the_answer_to_their_own_input(server):
    """Under a crowd, every logit equals bit for bit the answer to the same rows alone."""
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (1 + tag % 3, 64), dtype=np.uint8) for tag in range(2000)]
    right = []

    async def client(first: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        for tag in range(first, 2000, 100):
            rows = images[tag]
            asked = question(rows=len(rows), data=rows.reshape(-1).tolist()) | {"id": str(tag)}
            writer.write(request_bytes(json.dumps(asked).encode()))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length: ")[1].split(b"\r")[0])
            reply = json.loads(await reader.readexactly(length))
            logits = np.array(reply["outputs"][0]["data"], dtype=np.float32)
            expected = (rows.astype(np.float32) @ WEIGHTS).reshape(-1)
            right.append(reply["id"] == str(tag) and np.array_equal(expected, logits))
        writer.close()

    async def crowd() -> None:
        await asyncio.gather(*[client(first) for first in range(100)])

    before = server.served.batcher.batches
    asyncio.run(crowd())

    assert 2000 == sum(right)
    assert server.served.batcher.batches - before < 2000


def test_a_full_queue_gets_503_with_retry_after(deploy, fake):
    """Rows beyond the queue are refused at once; those inside are answered."""
    go = threading.Event()
    fake(lambda image: go.wait(5))
    with running(deploy, limits=SMALL) as server:
        statuses: list[httpx.Response] = []
        ask = lambda: statuses.append(httpx.post(server.url + INFER, json=question()))  # noqa: E731
        threads = [threading.Thread(target=ask) for _ in range(5)]
        threads[0].start()
        assert wait_until(lambda: server.served.batcher._running)
        for thread in threads[1:]:
            thread.start()
        assert wait_until(lambda: server.served.batcher.queued_rows == 4)
        refused = httpx.post(server.url + INFER, json=question())
        go.set()
        for thread in threads:
            thread.join()

    assert (503, "1") == (refused.status_code, refused.headers["retry-after"])
    assert ["error"] == list(refused.json())
    assert [200] * 5 == [reply.status_code for reply in statuses]


def test_a_client_that_hangs_up_frees_its_rows(deploy, fake):
    """Rows of 50 vanished clients leave the queue and are never computed."""
    go = threading.Event()
    session = fake(lambda image: go.wait(5))
    with running(deploy) as server:
        first = threading.Thread(target=lambda: httpx.post(server.url + INFER, json=question(1)))
        first.start()
        assert wait_until(lambda: server.served.batcher._running)
        gone = [socket.create_connection(("127.0.0.1", port_of(server))) for _ in range(50)]
        for connection in gone:
            connection.sendall(request_bytes(json.dumps(question(77)).encode()))
        assert wait_until(lambda: server.served.batcher.queued_rows == 50)
        for connection in gone:
            connection.close()
        assert wait_until(lambda: server.served.batcher.queued_rows == 0)
        go.set()
        first.join()
        after = httpx.post(server.url + INFER, json=question(5))

    assert 200 == after.status_code
    assert [1, 5] == session.seen


def test_a_model_that_hangs_gets_504_and_not_ready(deploy, fake):
    """The deadline answers the client; readiness turns to 503 and back by a real canary."""
    go = threading.Event()
    fake(lambda image: go.wait(5))
    limits = Limits(deadline_s=0.2, ready_s=0.2)
    with running(deploy, limits=limits) as server:
        late = httpx.post(server.url + INFER, json=question())
        stuck = httpx.get(server.url + "/v2/health/ready")
        alive = httpx.get(server.url + "/v2/health/live")
        go.set()
        assert wait_until(lambda: httpx.get(server.url + "/v2/health/ready").status_code == 200)

    assert (504, 503, 200) == (late.status_code, stuck.status_code, alive.status_code)
    assert ["error"] == list(late.json()) == list(stuck.json())


def writer(write: Any, deadline_s: float) -> Any:
    """As much of a server as writes texts by the function given."""
    served = SimpleNamespace(
        batcher=SimpleNamespace(closed=False), limits=SimpleNamespace(deadline_s=deadline_s),
        session=SimpleNamespace(write=write), writing=asyncio.Semaphore(1),
    )  # fmt: skip
    served.aside = partial(Served.aside, served)
    return served


@pytest.mark.parametrize(("seconds", "status"), [(0.0, 500), (0.3, 504)])
def test_writing_that_fails_or_lasts_says_so_in_plain_words(seconds, status):
    """A model that writes token by token hides its insides too, and keeps to the deadline."""

    def write(inputs):
        time.sleep(seconds)
        raise RuntimeError("secret /path")

    async def ask():
        await Served.write(writer(write, 0.1), {}, {})

    with pytest.raises(Refused) as caught:
        asyncio.run(ask())

    assert status == caught.value.status
    assert "secret" not in caught.value.message


def test_the_next_text_waits_for_one_that_nobody_waits_for():
    """A thread goes on behind its deadline; until it ends no second one is started beside it."""
    go, started = threading.Event(), []

    def write(inputs):
        started.append(inputs["number"])
        assert go.wait(10)
        return [inputs["number"]]

    async def ask():
        served, statuses = writer(write, 0.1), []
        for number in range(2):
            with pytest.raises(Refused) as caught:
                await Served.write(served, {"number": number}, {})
            statuses.append(caught.value.status)
        before = list(started)
        go.set()
        served.limits.deadline_s = 10
        return statuses, before, await Served.write(served, {"number": 2}, {})

    statuses, before, answer = asyncio.run(ask())

    assert ([504, 504], [0], [0, 2]) == (statuses, before, started)
    assert [2] == answer["written"].tolist()


def test_a_search_that_lasts_keeps_to_the_deadline_and_to_its_room(deploy, monkeypatch):
    """What is read off a model's outputs is answered with 504 in time; while as many threads as
    there is room for are busy no other is begun, and afterwards all is well."""
    go, begun = threading.Event(), []

    def answer(self, inputs, outputs, shown, how):
        begun.append(how)
        assert go.wait(10)
        return {"answer": "3"}

    monkeypatch.setattr(Answers, "answer", answer)
    headers, content = {"Content-Type": "image/png"}, png(np.zeros((8, 8), np.uint8))
    with running(deploy, limits=Limits(deadline_s=0.1, decodes=2)) as server:

        def ask() -> int:
            reply = httpx.post(server.url + "/page/answer", content=content, headers=headers)
            return reply.status_code

        late, busy = [ask() for _ in range(3)], len(begun)
        go.set()

        assert ([504] * 3, 2) == (late, busy)
        assert wait_until(lambda: ask() == 200)


def test_a_failing_request_gets_500_without_a_word_of_our_insides(deploy, fake):
    """The model's own error stays in the log; the neighbour in its batch is answered."""

    def run(image: np.ndarray) -> None:
        if (image[:, 0, 0, 0] == 13).any():
            raise RuntimeError("secret /path")

    fake(run)
    with running(deploy) as server:

        async def pair() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=server.url) as client:
                return await asyncio.gather(*[
                    client.post(INFER, json=question(first)) for first in (13, 5)
                ])  # fmt: skip

        bad, good = asyncio.run(pair())

    assert (500, 200) == (bad.status_code, good.status_code)
    assert {"error": "the model failed on this request"} == bad.json()


@pytest.mark.parametrize(("headers", "status"), [
    ({"Host": "localhost:1"}, 200), ({"Host": "[::1]:8000"}, 200), ({"Host": "127.0.0.1"}, 200),
    ({"Host": "evil.example"}, 403), ({"Host": "localhost.evil.example:8000"}, 403),
    ({"Host": "127.0.0.1.evil.example"}, 403), ({"Host": ""}, 400),
    ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
    ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
    ({"Origin": "https://evil.example"}, 403), ({"Origin": "null"}, 403),
])  # fmt: skip
def test_loopback_answers_no_foreign_page(server, headers, status):
    """A rebound name in Host, or another page's Origin, is turned away."""
    assert status == httpx.get(server.url + "/v2", headers=headers).status_code


def test_a_key_guards_everything_that_tells_of_the_model(deploy):
    """With a key only the health routes and the bare page are open."""
    with running(deploy, api_key=KEY) as server, httpx.Client(base_url=server.url) as client:
        right = {"Authorization": f"Bearer {KEY}"}
        closed = ("/v2", "/v2/models/cnn-tiny", "/page/model.json", "/v2/models/cnn-tiny/ready")
        without = [client.get(path).status_code for path in closed]
        wrong = [
            client.get("/v2", headers={"Authorization": value}).status_code
            for value in ("Bearer x", f"Basic {KEY}", KEY, f"Bearer {KEY}x", b"Bearer \xe9")
        ]
        opened = [client.get(path, headers=right).status_code for path in closed]
        free = [client.get(p).status_code for p in ("/", "/v2/health/live", "/v2/health/ready")]
        infer = [client.post(INFER, json=question(), headers=h).status_code for h in ({}, right)]

    assert [401] * 4 == without
    assert [401] * 5 == wrong
    assert [200] * 4 == opened
    assert [200] * 3 == free
    assert [401, 200] == infer


@pytest.mark.parametrize(("host", "key", "words"), [
    ("0.0.0.0", None, "no API key is set"), ("", None, "no API key is set"),
    ("example.org", None, "no API key is set"), ("127.0.0.1", "short", "5 characters"),
    ("0.0.0.0", "with blanks in the key", "characters that a header cannot carry"),
])  # fmt: skip
def test_an_open_address_needs_a_strong_key(host, key, words):
    """Beyond loopback a server starts with a key of 16 characters or not at all."""
    with pytest.raises(ConfigError, match=words):
        Access(host, key)


def test_a_flipped_byte_is_refused_before_the_start(deploy, tmp_path):
    """A model file that is not the one written stops the server with IntegrityError."""
    folder = tmp_path / "deploy"
    shutil.copytree(deploy, folder)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)

    with pytest.raises(IntegrityError, match=r"model\.onnx is not the file that was written"):
        prepare(folder, port=0)


def test_a_taken_port_is_an_error_with_a_repair(deploy, server):
    """The second server on one port says so and names --port."""
    with pytest.raises(ConfigError, match=r"cannot listen on 127.0.0.1(.|\n)*--port"):
        prepare(deploy, port=port_of(server))


@pytest.mark.parametrize("limit", [{"queue_rows": 0}, {"deadline_s": 0.0}, {"body_s": -1.0}])
def test_a_limit_that_would_refuse_everything_is_refused(limit):
    """Limits below their least are ConfigErrors."""
    with pytest.raises(ConfigError, match=next(iter(limit))):
        Limits(**limit)


@pytest.mark.parametrize(("pieces", "status"), [
    ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9], b"400"),
    ([b"GET\r\n\r\n"], b"400"),
    ([b"GET / HTTP/1.1\r\nHost: localhost\r\nBroken\r\n\r\n"], b"400"),
    ([b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n"], b"400"),
    ([b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
      b"Transfer-Encoding: chunked\r\n\r\n"], b"400"),
    ([b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n"], b"400"),
    ([b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 9000 + b"\r\n\r\n"], b"431"),
    ([b"GET / HTTP/1.1\r\nHost: localhost\r\nA: ", *[b"a" * 1000] * 9], b"431"),
    ([b"GET / HTTP/1.1\r\nHost: localhost\r\n"], b"408"),
    ([], b"408"),
    ([request_bytes(b"x" * 100)[:-50]], b"408"),
])  # fmt: skip
def test_broken_or_slow_requests_are_ended(deploy, pieces, status):
    """Junk, oversized headers and senders that stall get an error object and are hung up on."""
    with running(deploy, limits=SMALL) as server:
        answer = raw(server, *pieces)
        after = httpx.post(server.url + INFER, json=question()).status_code

    assert status == answer.split()[1]
    assert ["error"] == list(json.loads(answer.partition(b"\r\n\r\n")[2]))
    assert 200 == after


def test_a_second_request_that_stalls_is_ended_too(deploy):
    """The time for headers holds on a connection that was already served."""
    first = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running(deploy, limits=SMALL) as server:
        answer = raw(server, first, b"GET /v2 HTTP/1.1\r\nHost: loc")

    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1 408") == 1


def test_answers_do_not_wait_for_the_acknowledgement_of_their_headers(server):
    """Nagle's algorithm is off on accepted connections; it would cost 40 ms an answer."""
    with socket.create_connection(("127.0.0.1", port_of(server))):
        assert wait_until(lambda: server.server_state.connections)
        (*_, newest) = server.server_state.connections
        accepted = newest.transport.get_extra_info("socket")

        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_idle_connection_is_closed(deploy):
    """After its answer a silent connection ends by itself."""
    with running(deploy, limits=SMALL) as server:
        start = time.monotonic()
        answer = raw(server, b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n", wait_s=3)

    assert answer.startswith(b"HTTP/1.1 200")
    assert 0.2 < time.monotonic() - start < 2


def test_connections_beyond_the_limit_get_503(deploy):
    """The ninth of eight connections is told to come back, and can once one is gone."""
    with running(deploy, limits=SMALL) as server:
        open_ones = [socket.create_connection(("127.0.0.1", port_of(server))) for _ in range(8)]
        assert wait_until(lambda: len(server.server_state.connections) == 8, 0.25)
        answer = raw(server)
        for connection in open_ones:
            connection.close()
        assert wait_until(lambda: not server.server_state.connections)
        after = httpx.get(server.url + "/v2").status_code

    assert answer.startswith(b"HTTP/1.1 503")
    assert 200 == after


def test_random_bytes_never_break_the_server(server):
    """300 mutations of a valid request get an answer below 500, or a closed connection."""
    rng = np.random.default_rng(2)
    valid = request_bytes(json.dumps(question()).encode()).replace(
        b"Host: localhost\r\n", b"Host: localhost\r\nConnection: close\r\n"
    )
    statuses = set()
    for _ in range(300):
        mutated = bytearray(valid)
        for position in rng.integers(0, len(valid), size=rng.integers(1, 8)):
            mutated[position] = rng.integers(0, 256)
        answer = raw(server, bytes(mutated), wait_s=0.05)
        if answer:
            statuses.add(int(answer.split()[1]))
            assert b"Traceback" not in answer
    assert {200, 400} <= statuses
    assert max(statuses) < 500
    assert 200 == httpx.get(server.url + "/v2/health/ready").status_code
