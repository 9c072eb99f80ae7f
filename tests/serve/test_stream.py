"""A language model on the page: what comes next after a text that a person writes."""

import httpx
import numpy as np
import pytest
from onnx import helper
from tests.serve.conftest import running
from tests.serve.test_kinds import deployed

from modelwright.core.signature import Signature, TensorSpec
from modelwright.data import language

KNOWN = language.learn("ab天", "bytes", 258)
BYTE_A = 2 + ord("a")
STREAM = {"kind": "stream", "vocab_size": 258, "features": 1, "length": 4, "max_length": 4,
          "unit": "bytes"}  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory):
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
    folder = deployed(
        tmp_path_factory.mktemp("stream") / "deploy", "language-modeling", nodes, signature,
        [("last", np.array([2])), ("scores", scores)], {language.TOKENS: KNOWN.to_bytes()},
        labels=KNOWN.labels,
        model={"inputs": STREAM, "outputs": {"kind": "next", "num_classes": 258}},
    )  # fmt: skip
    with running(folder) as server, httpx.Client(base_url=server.url) as asking:
        yield asking


def ask(client, content):
    return client.post("/page/answer", content=content, headers={"Content-Type": "text/plain"})


def test_a_text_is_answered_with_what_comes_next(client):
    """The likeliest tokens after its end, also of a text longer than a window."""
    for text in (b"a", b"long before it comes to a"):
        reply = ask(client, text).json()

        assert "b" == reply["answer"]
        assert [0.75, 0.25] == [
            pytest.approx(one["probability"]) for one in reply["probabilities"][:2]
        ]
        assert "\ufffd" == reply["probabilities"][1]["label"]  # a part of a character


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

    assert ("text", "the next of 258 tokens") == (facts["takes"], facts["answers"])
