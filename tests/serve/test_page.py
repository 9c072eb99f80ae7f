"""The page for people: its files, its facts, and that it answers as the protocol does."""

import re

import httpx
import numpy as np
import pytest
from tests.serve.conftest import png, question


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url) as open_client:
        yield open_client


def test_the_page_answers_as_infer_does(client):
    """A picture's bytes get the same probabilities as its pixels through the protocol."""
    pixels = np.random.default_rng(3).integers(0, 256, (8, 8), dtype=np.uint8)
    page = client.post("/page/answer", content=png(pixels), headers={"Content-Type": "image/png"})
    asked = question(data=pixels.reshape(-1).tolist())
    outputs = client.post("/v2/models/cnn-tiny/infer", json=asked).json()["outputs"]
    shares = {item["label"]: item["probability"] for item in page.json()["probabilities"]}
    expected = np.array(outputs[1]["data"], dtype=np.float32)

    assert expected.tolist() == [np.float32(shares[str(digit)]) for digit in range(10)]
    assert str(expected.argmax()) == page.json()["answer"]
    assert page.json()["latency_ms"] > 0


def test_the_page_is_self_contained_and_locked_down(client):
    """No file names another host, nothing is inline, and the policy allows only our own."""
    for path in ("/", "/page/app.js", "/page/style.css"):
        reply = client.get(path)
        policy = reply.headers["content-security-policy"]

        assert 200 == reply.status_code
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        foreign = re.findall(r"https?://(?!www\.w3\.org/2000/svg)[\w.]+", reply.text)
        assert [] == foreign
        assert not re.search(r"<script>|<style>|\son\w+=|style=|eval\(|innerHTML", reply.text)


def test_the_page_knows_the_model_its_goals_and_its_samples(client):
    """Facts come from the manifest, goals from the certificate, samples from samples.json."""
    facts = client.get("/page/model.json").json()

    assert ("cnn-tiny", 640, "10 classes", "image") == tuple(
        facts[key] for key in ("name", "num_params", "answers", "takes")
    )
    assert ["accuracy"] == list(facts["goals"])
    assert ["3"] == [sample["label"] for sample in facts["samples"]]


@pytest.mark.parametrize(("content", "kind", "status"), [
    (b"not a picture", "image/png", 400), (b"", "image/png", 400),
    (png(np.zeros((8, 8), np.uint8))[:40], "image/png", 400), (b"GIF89a", "image/gif", 400),
    (png(np.zeros((8, 8), np.uint8)), "text/plain", 415),
])  # fmt: skip
def test_what_is_no_picture_is_refused_in_plain_words(client, content, kind, status):
    """Broken files and foreign types get an error object that names no library."""
    reply = client.post("/page/answer", content=content, headers={"Content-Type": kind})

    assert status == reply.status_code
    assert ["error"] == list(reply.json())
    assert not re.search(r"PIL|BytesIO|0x", reply.text)
