"""A language model on the page: how a text goes on that a person writes."""

import itertools
import json
import socket

import httpx
import numpy as np
import pytest
from onnx import helper
from tests.serve.conftest import running
from tests.serve.test_kinds import deployed

from modelwright.core.signature import Signature, TensorSpec
from modelwright.data import language
from modelwright.serve.answers import Answers
from modelwright.serve.limits import Limits

KNOWN = language.learn("ab天", "bytes", 258)
BYTE_A = 2 + ord("a")
STREAM = {"kind": "stream", "vocab_size": 258, "features": 1, "length": 4, "max_length": 4,
          "unit": "bytes"}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that says each byte's successor, to three quarters."""
    signature = Signature(
        (TensorSpec("ids", "int64", ("batch", "time", 1)),),
        tuple(
            TensorSpec(n, "float32", ("batch", "time", 258)) for n in ("logits", "probabilities")
        ),
    )
    nodes = [
        helper.make_node("Squeeze", ["ids", "last"], ["flat"]),
        helper.make_node("Gather", ["scores", "flat"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    scores = np.full((258, 258), -100, np.float32)
    scores[np.arange(258), (np.arange(258) + 1) % 258] = np.log(3)
    scores[:, 2 + 0xE5] = 0
    return deployed(
        tmp_path_factory.mktemp("stream") / "deploy", "language-modeling", nodes, signature,
        [("last", np.array([2])), ("scores", scores)], {language.TOKENS: KNOWN.to_bytes()},
        labels=KNOWN.labels, decode={"max_new": 4, "temperature": 0},
        model={"inputs": STREAM, "outputs": {"kind": "next", "num_classes": 258}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def client(folder):
    with running(folder) as server, httpx.Client(base_url=server.url) as asking:
        yield asking


def ask(client, content, query="", *, timeout=5, **headers):
    headers = {"Content-Type": "text/plain", **headers}
    return client.post(f"/page/answer{query}", content=content, headers=headers, timeout=timeout)


@pytest.mark.parametrize(("query", "wanted"), [
    ("", "bcde"),
    ("?max_new=2", "bc"),
    ("?stop=e&max_new=9", "bcd"),
])  # fmt: skip
def test_a_text_is_continued_as_it_was_shipped_to_be_or_as_asked(client, query, wanted):
    """What the model was shipped with holds where the request says nothing; also behind a text
    that is longer than a window."""
    for text in ("a", "long before it comes to a"):
        reply = ask(client, text.encode(), query).json()

        assert (text, wanted) == (reply["prompt"], reply["answer"])
        assert reply["latency_ms"] > 0


def test_a_text_comes_in_pieces_to_those_who_accept_them(client):
    """One object a line, the last one the whole answer."""
    reply = ask(client, b"a", Accept="application/x-ndjson")
    *pieces, last = map(json.loads, reply.text.splitlines())

    assert "application/x-ndjson" == reply.headers["Content-Type"]
    assert "bcde" == "".join(one["piece"] for one in pieces) == last["answer"]


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_text_without_end_is_cut_at_the_deadline(folder, accept):
    """With 504, or behind the pieces that have gone out; the next one is written all the same."""
    limits = Limits(deadline_s=0.3)
    with running(folder, limits=limits) as server, httpx.Client(base_url=server.url) as client:
        reply = ask(client, b"a", "?max_new=1000000", Accept=accept)
        after = ask(client, b"a").json()

    error = json.loads(reply.text.splitlines()[-1])["error"]
    assert "no end within the deadline: ask for fewer tokens with max_new" == error
    assert (504 if accept == "application/json" else 200) == reply.status_code
    assert "bcde" == after["answer"]


def test_a_client_that_stops_reading_holds_up_nobody(folder, monkeypatch):
    """It is hung up on after the time that it has to take its answer, and the next one writes."""
    continued = Answers.continued

    def endless(self, content, session, how):
        prompt, pieces = continued(self, content, session, how)
        return prompt, itertools.repeat("a" * 100_000) if prompt == "long" else pieces

    monkeypatch.setattr(Answers, "continued", endless)
    limits = Limits(write_s=0.2, deadline_s=15)
    with (
        running(folder, limits=limits) as server,
        httpx.Client(base_url=server.url) as client,
        socket.create_connection((client.base_url.host, client.base_url.port)) as stalled,
    ):
        stalled.sendall(
            b"POST /page/answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
            b"Accept: application/x-ndjson\r\nContent-Type: text/plain\r\n\r\nlong"
        )
        assert b"HTTP/1.1 200" == stalled.recv(12)
        reply = ask(client, b"a", timeout=30)

    assert (200, "bcde") == (reply.status_code, reply.json().get("answer"))


@pytest.mark.parametrize(("query", "words"), [
    ("?beam=2", "beam: this model has no use for it"),
    ("?temperature=-1", "temperature is -1"),
    ("?seed=1", "seed: nothing reads it"),
])  # fmt: skip
def test_what_changes_nothing_is_refused(client, query, words):
    """As of every model that writes."""
    reply = ask(client, b"a", query)

    assert 400 == reply.status_code
    assert words in reply.json()["error"]


@pytest.mark.parametrize(("content", "status", "words"), [
    (b"", 400, "the text is empty"),
    (b"\xff\xfe", 400, "the text is not UTF-8"),
    (b"a" * 70_000, 413, "65,536 bytes at most"),
])  # fmt: skip
def test_what_cannot_be_continued_is_refused(client, content, status, words):
    """In plain words."""
    reply = ask(client, content)

    assert status == reply.status_code
    assert words in reply.json()["error"]


def test_the_page_asks_for_a_text(client):
    """A person writes it, as for any model of texts."""
    facts = client.get("/page/model.json").json()

    assert ("text", "goes on with a text, in 258 tokens") == (facts["takes"], facts["answers"])
    assert {"max_new": 4, "temperature": 0} == facts["writes"]
