"""The page for people: its files, its facts, and that it answers as the protocol does."""

import json
import re
import shutil
import subprocess
from importlib import resources

import httpx
import numpy as np
import pytest
from tests.serve.conftest import png, question

# of a browser as much as the page's functions touch
BROWSER = """
const elements = {}, list = { toggle() {}, add() {}, remove() {} };
const element = () => new Proxy({}, {
  get: (own, name) => (name in own ? own[name] : name === "classList" ? list : () => {}),
});
globalThis.document = {
  getElementById: (id) => (elements[id] ??= element()), createElement: element, body: element(),
  createElementNS: (space, name) => ({ name, setAttribute(key, value) { this[key] = value; } }),
};
Object.assign(globalThis, { addEventListener() {}, location: { origin: "" }, fetch: async () => ({
  ok: false, status: 500, json: async () => ({}),
})});
"""


def in_page(*expressions):
    """What expressions over the page's own functions come to."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not on this machine")
    source = resources.files("modelwright.serve").joinpath("page", "app.js").read_text()
    asked = f"console.log(JSON.stringify([{', '.join(expressions)}]));"
    script = f"{BROWSER}{source}\n(async () => {{ {asked} }})();"
    done = subprocess.run([node], input=script, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


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


def test_goals_are_shown_as_they_were_asked():
    """A bound keeps its digits, and what was measured is no hundred or nothing that it is not."""
    bounds = {
        ("<= 0.0025", "share"): "at most 0.25%", (">= 0.9725", "share"): "at least 97.25%",
        (">= 0.9996", "share"): "at least 99.96%", ("<= 0.3815", ""): "at most 0.3815",
        ("<= 0.5", "mb"): "at most 0.5 MB", ("<= 1e-05", ""): "at most 0.00001",
        ("soon", "ms"): "soon",
    }  # fmt: skip
    measured = {
        (0.9825, "share"): "98.25%", (0.99996, "share"): ">99.99%", (1, "share"): "100.00%",
        (0.00001, "share"): "<0.01%", (0.05821, "ms"): "0.05821 ms", (0.00002, ""): "2.0e-5",
    }  # fmt: skip
    said = in_page(
        *(f"bound({json.dumps(text)}, {json.dumps(unit)})" for text, unit in bounds),
        *(f"amount({value}, {json.dumps(unit)})" for value, unit in measured),
        *(f"percent({share})" for share in (0.9996, 0.0004, 0.5)),
    )

    assert [*bounds.values(), *measured.values(), ">99.9%", "<0.1%", "50.0%"] == said


def test_the_servers_reason_is_the_one_that_is_shown():
    """Where it gives one; a proxy in between may not."""
    said = in_page(
        '(model = { takes: "audio" }, plain(413, "the recording is too long for this model"))',
        'plain(400, "this file cannot be read")', "plain(413)",
    )  # fmt: skip

    assert "The recording is too long for this model." == said[0]
    assert "This file cannot be read." == said[1]
    assert "This recording is too large for the server. Use a smaller one." == said[2]


def test_a_key_that_no_header_can_carry_is_not_sent():
    """The page says so, and not that the server cannot be reached."""
    said = in_page(
        '($("key-value").value = "schlüssel-schlüssel", '
        "elements.key.onsubmit({ preventDefault() {} }), elements.facts.textContent)"
    )

    assert ["A key has letters from A to Z, digits and signs, without blanks."] == said


def test_the_page_of_a_model_that_it_cannot_ask_is_whole():
    """It says so, and shows the address for programs."""
    model = {"name": "m", "takes": None, "samples": [], "goals": {}, "span_kinds": [],
             "columns": [], "model_bytes": 9, "version": "1"}  # fmt: skip
    facts, address = in_page(
        f"(model = {json.dumps(model)}, show(), elements.facts.textContent)",
        "elements.endpoint.textContent",
    )

    assert "The page cannot ask this model; programs can" in facts
    assert "/v2/models/m/infer" == address


def test_boxes_are_framed_with_label_and_score():
    """In the colour of their place among the model's classes; no label lies on another, nor beyond
    the picture's right edge."""
    boxes = [{"label": label, "score": 0.93, "box": box} for label, box in (
        ("cat", [4, 40, 30, 60]), ("dog", [5, 41, 28, 60]), ("dog", [60, 2, 90, 30]))]  # fmt: skip
    (drawn,) = in_page(
        f"(model = {{ span_kinds: ['dog', 'cat'] }}, frames({json.dumps(boxes)}, 100, 0.5))"
    )
    first, second, third = drawn[1::2]

    assert ["rect", "text"] * 3 == [one["name"] for one in drawn]
    assert ["k1", "k1", "k0", "k0", "k0", "k0"] == [one["class"] for one in drawn]
    assert ["cat 93%", "dog 93%", "dog 93%"] == [one["textContent"] for one in drawn[1::2]]
    assert second["y"] - first["y"] >= 7
    assert (2 + 7, 90, "end") == (third["y"], third["x"], third["text-anchor"])


def test_a_tagged_text_is_shown_as_it_came():
    """Between spans stands what was written there; what takes two places in a script counts one."""
    text = "\U0001f600 在 Google 北京，好"
    spans = [{"kind": "ORG", "text": "Google", "start_char": 4, "end_char": 10},
             {"kind": "LOC", "text": "北京", "start_char": 11, "end_char": 13}]  # fmt: skip
    (shown,) = in_page(
        "(model = { span_kinds: ['LOC', 'ORG'] }, globalThis.shown = [], "
        "$('tagged').replaceChildren = (...parts) => shown.push(...parts), "
        f"showTags({{ text: {json.dumps(text)}, answer: {json.dumps(spans)} }}), "
        "shown.map((one) => one.className ?? one))"
    )

    assert ["\U0001f600 在 ", "kind k1", " ", "kind k0", "，好"] == shown


def test_a_translation_goes_line_by_line():
    """As the command reads a file: a line is an answer, blank ones stay, time adds up."""
    said = "async (body) => ({ answer: (await body.text()).toUpperCase(), latency_ms: 2 })"
    (reply,) = in_page(f"await byLine(new Blob(['a b\\r\\n\\nc d\\n']), {said})")

    assert {"answer": "A B\n\nC D", "latency_ms": 4} == reply
