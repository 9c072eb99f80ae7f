"""Texts, sounds and tables: what the page takes and answers, and rows of unequal length."""

import io
import wave
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.serve.conftest import LABELS, running

from modelwright.core import artifact
from modelwright.core.signature import Signature, TensorSpec
from modelwright.data.text import VOCABULARY, Vocabulary
from modelwright.serve.answers import Answers
from modelwright.serve.limits import Refused

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
TAGS = ["O", "B-LOC", "I-LOC"]
WORDS = Vocabulary("given", ["token"], {"token:in": 2, "token:paris": 3, "token:texas": 4})
# of each id, the scores of TAGS: a place is named by its words, "texas" continues
SCORES = np.array([[0, 0, 0], [9, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]], np.float32)
TEXT = {"kind": "text", "vocab_size": 5, "features": 1, "length": 8, "max_length": 16,
        "unit": "given", "asked": "words", "whole": True}  # fmt: skip
SERIES = {"kind": "series", "length": 4, "patch": 4, "channels": ["load", "<b>heat</b>"]}
SOUND = {"kind": "audio", "rate": 8000, "num_mels": 40, "length": 80, "max_length": 160}


def deployed(folder, task, nodes, signature, constants=(), files=None, **fields):
    """The folder of a toy graph over the signature's tensors."""

    def values(specs):
        types = {"float32": FLOAT, "int64": INT}
        return [helper.make_tensor_value_info(s.name, types[s.dtype], list(s.shape)) for s in specs]

    def fill(path):
        graph = helper.make_graph(
            nodes, "toy", values(signature.inputs), values(signature.outputs),
            [numpy_helper.from_array(value, name) for name, value in constants],
        )  # fmt: skip
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path / "model.onnx")

    files = files or {}
    artifact.write(
        folder, "deploy", model_file="model.onnx", fill=fill, signature=signature, task=task,
        extras=files, preprocess={"files": list(files)}, target={"threads": 1}, **fields,
    )  # fmt: skip
    return folder


def tagger(folder, **spec):
    """(1, time, 1) ids to the scores of every place."""
    signature = Signature(
        (TensorSpec("ids", "int64", ("batch", "time", 1)),),
        tuple(TensorSpec(n, "float32", ("batch", "time", 3)) for n in ("logits", "probabilities")),
    )
    nodes = [
        helper.make_node("Squeeze", ["ids", "last"], ["flat"]),
        helper.make_node("Gather", ["scores", "flat"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    return deployed(
        folder, "tagging", nodes, signature,
        [("last", np.array([2])), ("scores", SCORES)], {VOCABULARY: WORDS.to_bytes()},
        labels=TAGS, model={"inputs": TEXT, "outputs": {"kind": "tags", "num_classes": 3}, **spec},
    )  # fmt: skip


def forecaster(folder):
    """The next two values are the last two."""
    signature = Signature(
        (TensorSpec("window", "float32", ("batch", 4, 2)),),
        tuple(TensorSpec(name, "float32", ("batch", 2, 2)) for name in ("scaled", "forecast")),
    )
    nodes = [
        helper.make_node("Slice", ["window", "from", "to", "axis"], ["scaled"]),
        helper.make_node("Identity", ["scaled"], ["forecast"]),
    ]
    return deployed(
        folder, "forecasting", nodes, signature,
        [("from", np.array([2])), ("to", np.array([4])), ("axis", np.array([1]))],
        labels=[], model={"inputs": SERIES, "outputs": {"kind": "horizon", "horizon": 2}},
    )  # fmt: skip


def listener(folder):
    """Loud or quiet, by the mean of what is heard."""
    signature = Signature(
        (TensorSpec("samples", "float32", ("batch", "time")),
         TensorSpec("lengths", "int64", ("batch",))),
        tuple(TensorSpec(n, "float32", ("batch", 2)) for n in ("logits", "probabilities")),
    )  # fmt: skip
    nodes = [
        helper.make_node("Abs", ["samples"], ["loud"]),
        helper.make_node("ReduceMean", ["loud"], ["mean"], axes=[1]),
        helper.make_node("Cast", ["lengths"], ["unused"], to=FLOAT),
        helper.make_node("Mul", ["mean", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    return deployed(
        folder, "audio-classification", nodes, signature,
        [("weights", np.array([[9, 1]], np.float32))], labels=["loud", "quiet"],
        model={"inputs": SOUND, "outputs": {"kind": "classes", "num_classes": 2}},
    )  # fmt: skip


MAKERS = {"text": tagger, "series": forecaster, "audio": listener}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """By kind of input, a function that posts to a server of a toy model."""
    clients, servers = {}, []
    for kind, make in MAKERS.items():
        serving = running(make(tmp_path_factory.mktemp(kind) / "deploy"))
        servers.append(serving)
        clients[kind] = httpx.Client(base_url=serving.__enter__().url)
    yield clients
    for client, serving in zip(clients.values(), servers, strict=True):
        client.close()
        serving.__exit__(None, None, None)


def page(client, content, kind):
    return client.post("/page/answer", content=content, headers={"Content-Type": kind})


def wav(samples, rate=8000):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return buffer.getvalue()


def test_a_text_is_answered_with_its_spans(asked):
    """Punctuation is cut off as the reader does, and every word keeps its own tag."""
    reply = page(asked["text"], b"  In Paris\nTexas, x", "text/plain;charset=utf-8").json()

    assert [{"text": "Paris\nTexas", "kind": "LOC", "start": 1, "end": 3, "start_char": 5,
             "end_char": 16}] == reply["answer"]  # fmt: skip
    assert ("  In Paris\nTexas, x", ["LOC"]) == (reply["text"], reply["kinds"])
    assert ["In", "Paris", "Texas", ",", "x"] == [one["text"] for one in reply["tags"]]
    assert ["O", "B-LOC", "I-LOC", "O", "O"] == [one["tag"] for one in reply["tags"]]
    assert reply["latency_ms"] > 0


def test_a_table_is_continued(asked):
    """The last rows of a CSV are the window; the answer is by series, beside what was before."""
    table = "date,load,<b>heat</b>\n" + "".join(f"2024-01-0{n},{n},{-n}\n" for n in range(1, 7))
    reply = page(asked["series"], table.encode(), "text/csv").json()

    assert {"load": [5.0, 6.0], "<b>heat</b>": [-5.0, -6.0]} == reply["answer"]
    assert [3.0, 4.0, 5.0, 6.0] == reply["before"]["load"]


def test_a_recording_is_answered_with_its_class(asked):
    """The samples of a WAV file get the same JSON as a picture's classes."""
    pytest.importorskip("soundfile")
    reply = page(asked["audio"], wav([20000, -20000] * 40), "audio/wav").json()

    assert "loud" == reply["answer"]
    assert ["loud", "quiet"] == [one["label"] for one in reply["probabilities"]]


@pytest.mark.parametrize(("kind", "content", "sent", "status", "words"), [
    ("text", b"\xff\xfe", "text/plain", 400, "the text is not UTF-8"),
    ("text", b" \n ", "text/plain", 400, "the text is empty"),
    ("text", b"a " * 40_000, "text/plain", 413, "65,536 bytes at most"),
    ("text", b"Paris", "image/png", 415, "send the text's bytes with content type text/…"),
    ("series", b"load,<b>heat</b>\n1,2\n", "text/csv", 400, "has 1 rows, and the model looks back"),
    ("series", b"load\n" + b"1\n" * 9, "text/csv", 400, "has no column '<b>heat</b>'"),
    ("series", b"\x1f\x8b\x08", "application/gzip", 400, "packed tables are not accepted"),
    ("series", b"PAR1\x15\x04", "application/octet-stream", 400,
     "packed tables are not accepted"),
    ("audio", b"RIFF", "audio/wav", 400, "send a whole WAV or FLAC file of at most 600 seconds"),
    ("audio", wav([0] * 321), "audio/wav", 413, "the recording is too long for this model"),
])  # fmt: skip
def test_what_cannot_be_answered_is_refused_in_plain_words(
    asked, kind, content, sent, status, words
):
    """Each kind of input has its own words; nothing is unpacked or computed without a bound."""
    if kind == "audio":
        pytest.importorskip("soundfile")
    reply = page(asked[kind], content, sent)

    assert status == reply.status_code
    assert ["error"] == list(reply.json())
    assert words in reply.json()["error"]


def test_a_recording_that_announces_too_much_is_not_unpacked(asked, monkeypatch):
    """Silence packs small: a FLAC of a few bytes would take the memory of minutes of sound."""
    soundfile = pytest.importorskip("soundfile")
    packed, decoded = io.BytesIO(), []
    soundfile.write(packed, np.zeros(8000 * 60, np.int16), 8000, format="FLAC")
    monkeypatch.setattr("modelwright.data.audio.decode", decoded.append)
    reply = page(asked["audio"], packed.getvalue(), "audio/flac")

    assert (413, []) == (reply.status_code, decoded)
    assert "the recording is too long for this model" in reply.json()["error"]


def test_the_page_knows_what_to_ask_for(asked):
    """What the model takes and what it answers are told in words, and the kinds of spans."""
    facts = {kind: client.get("/page/model.json").json() for kind, client in asked.items()}

    assert {kind: kind for kind in MAKERS} == {kind: one["takes"] for kind, one in facts.items()}
    assert {
        "text": "1 kind of span",
        "series": "2 series, 2 steps ahead",
        "audio": "2 classes",
    } == {kind: one["answers"] for kind, one in facts.items()}
    assert (["LOC"], []) == (facts["text"]["span_kinds"], facts["audio"]["span_kinds"])
    assert (["load", "<b>heat</b>"], 4) == (facts["series"]["columns"], facts["series"]["rows"])


def test_kinds_of_boxes_are_the_models_classes():
    """In their own order, by which the page gives them colours."""
    answers = Answers("detection", {"kind": "image"}, {"kind": "boxes"}, ["dog", "cat"], {}, {})

    assert ["dog", "cat"] == answers.span_kinds


def test_rows_of_unequal_length_never_share_a_batch(asked):
    """Of many requests at once, of several lengths, each gets the scores of its own ids."""
    draw = np.random.default_rng(0)
    rows = [draw.integers(1, 5, (1 + n % 3, 1 + n % 7, 1)) for n in range(200)]

    def post(ids):
        tensor = {"name": "ids", "shape": list(ids.shape), "datatype": "INT64"}
        tensor["data"] = ids.reshape(-1).tolist()
        return asked["text"].post("/v2/models/model/infer", json={"inputs": [tensor]}).json()

    with ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(post, rows))

    for ids, reply in zip(rows, replies, strict=True):
        logits = reply["outputs"][0]
        assert [*ids.shape[:2], 3] == logits["shape"]
        assert SCORES[ids[..., 0]].reshape(-1).tolist() == logits["data"]


@pytest.mark.parametrize(("shape", "words"), [
    ((1, 33, 1), "a row may have 32 places at most"),
    ((65, 32, 1), "one request may bring 2048 places in all"),
])  # fmt: skip
def test_a_row_longer_than_the_model_is_meant_for_is_refused(asked, shape, words):
    """A free size is bounded by twice what training saw, and all rows by a full batch."""
    tensor = {"name": "ids", "shape": shape, "datatype": "INT64", "data": [1] * int(np.prod(shape))}
    reply = asked["text"].post("/v2/models/model/infer", json={"inputs": [tensor]})

    assert 400 == reply.status_code
    assert words in reply.json()["error"]


@pytest.mark.parametrize(("number", "status"), [(0, 200), (4, 200), (5, 400), (-1, 400)])
def test_ids_outside_the_vocabulary_are_refused(asked, number, status):
    """A graph counts those below zero from the end, and answers with confidence."""
    tensor = {"name": "ids", "shape": [1, 2, 1], "datatype": "INT64", "data": [2, number]}
    reply = asked["text"].post("/v2/models/model/infer", json={"inputs": [tensor]})

    assert status == reply.status_code
    assert status == 200 or "ids are whole numbers from 0 to 4" in reply.json()["error"]


def test_learned_positions_bound_a_row(tmp_path):
    """Behind the last place that has a position nothing is computed."""
    spec = {"family": "transformer", "size": "tiny", "args": {"positions": "learned"}}
    with (
        running(tagger(tmp_path / "deploy", **spec), name="model") as server,
        httpx.Client(base_url=server.url) as client,
    ):
        replies = []
        for places in (16, 17):
            tensor = {"name": "ids", "shape": [1, places, 1], "datatype": "INT64",
                      "data": [1] * places}  # fmt: skip
            replies.append(client.post("/v2/models/model/infer", json={"inputs": [tensor]}))

    assert [200, 400] == [one.status_code for one in replies]
    assert "a row may have 16 places at most" in replies[1].json()["error"]


def test_nested_rows_of_a_free_length_are_no_flood(asked):
    """A full batch of the longest rows may come as lists in lists."""
    data = [[[1]] * 32] * 64
    tensor = {"name": "ids", "shape": [64, 32, 1], "datatype": "INT64", "data": data}
    reply = asked["text"].post("/v2/models/model/infer", json={"inputs": [tensor]})

    assert 200 == reply.status_code


def test_an_older_folder_that_takes_pictures_still_has_its_page(deploy, tmp_path):
    """Where the manifest describes no inputs, the tensors show that they are pictures."""
    from modelwright.serve.answers import answers_of

    made = artifact.open_artifact(deploy)
    older = {**made.manifest, "model": {"family": "cnn", "size": "tiny"}}
    del older["preprocess"]
    answers = answers_of(artifact.Artifact(deploy, older))

    assert answers is not None
    assert ("image", [1, 8, 8], LABELS) == (answers.kind, answers.inputs["shape"], answers.labels)


@pytest.mark.parametrize(("asked", "wanted"), [
    ({}, {}),
    ({"beam": "2"}, {"beam": 2}),
    ({"temperature": "0.7", "seed": "3"}, {"temperature": 0.7, "seed": 3}),
    ({"top_k": "3"}, "top_k: nothing reads it"),
    ({"beam": "70"}, "beam is 70"),
    ({"beam": "many"}, "values must be numbers"),
    ({"stop": '"."'}, "stop: this model has no use for it"),
    ({"max_new": "1024"}, {"max_new": 1024}),
    ({"max_new": "null"}, {"max_new": None}),
    ({"max_new": "1025"}, "max_new: at most 1024"),
])  # fmt: skip
def test_a_request_says_how_to_write(asked, wanted):
    """By the words of its address, over what was shipped; the rest is refused with 400."""
    pairs = {"kind": "pairs", "pair": ["de", "en"]}
    answers = Answers("translation", pairs, {"kind": "sequence"}, [], {}, {"length_penalty": 0.5})
    if isinstance(wanted, dict):
        assert wanted == answers.how(asked)
        return
    with pytest.raises(Refused, match=wanted) as refusal:
        answers.how(asked)

    assert 400 == refusal.value.status


@pytest.mark.parametrize("asked", ["0", "65", "2.5", "true", "[" * 9999])
def test_a_search_that_a_stranger_asks_for_is_bounded(asked):
    """Transcription takes the width of its beam, a whole number up to 64."""
    answers = Answers("transcription", {"kind": "audio"}, {"kind": "letters"}, [], {}, {})

    assert {"beam_width": 64} == answers.how({"beam_width": "64"})
    with pytest.raises(Refused, match=r"beam_width: a whole number from 1 to 64|must be numbers"):
        answers.how({"beam_width": asked})
