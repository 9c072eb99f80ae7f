"""Beam search with a carried state: the same texts as looking at everything again, in any batch."""

import math

import numpy as np
import pytest
import torch

from modelwright.core.errors import ConfigError
from modelwright.core.signature import Signature, TensorSpec
from modelwright.export.onnx import export_onnx
from modelwright.models.catalog import MODELS, ModelSpec, build
from modelwright.runtime.decode import Reading, Writing, beam_search, distribution, sample
from modelwright.runtime.onnx_session import OnnxSession
from modelwright.runtime.torch_session import TorchSession

VOCAB = 12
END = VOCAB - 1
MOST = 9


KINDS = {
    **{family: (family, {}) for family in MODELS},
    "sinusoidal": ("transformer", {"positions": "sinusoidal", "num_layers": 1}),
}


@pytest.fixture(
    scope="module",
    params=[  # each exported once, in one process
        pytest.param(
            kind,
            id=name,
            marks=[
                pytest.mark.xdist_group(f"decode-{name}"),
                *([] if name in MODELS else [pytest.mark.slow]),
            ],
        )
        for name, kind in KINDS.items()
    ],
)
def sessions(request, tmp_path_factory):
    """One model with strong opinions, in PyTorch and as a graph in ONNX Runtime."""
    family, args = request.param
    inputs = {"kind": "pairs", "vocab_size": VOCAB, "length": 8, "max_length": 12, "end": END}
    outputs = {"kind": "sequence", "num_classes": VOCAB, "labels": list("?" * VOCAB), "end": END}
    spec = ModelSpec(family, "tiny", inputs, outputs, args)
    torch.manual_seed(3)
    model = build(spec).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp(family) / "model.onnx"
    return TorchSession(model, spec, 1), OnnxSession(path, export_onnx(model, path, spec), 1)


@pytest.fixture(params=[0, 1], ids=["torch", "onnx"])
def session(request, sessions):
    """Either of them."""
    return sessions[request.param]


def batch(rows=5):
    """Sources of one to nine tokens, padded."""
    draw = np.random.default_rng(0)
    source = draw.integers(2, END, (rows, 9))
    source[np.arange(9) >= 1 + 2 * np.arange(rows)[:, None]] = 0
    return {"source": source, "target": np.full((rows, 1), END)}


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    found = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    found[..., :2] = -np.inf
    return found


def greedy_again(session, source):
    """The likeliest token each time, with the whole model run again for each."""
    ids = [END]
    while len(ids) <= MOST:
        logits = session({"source": source[None], "target": np.array([ids])})["logits"][0, -1]
        ids.append(int(log_softmax(logits).argmax()))
        if ids[-1] == END:
            return ids[1:-1]
    return ids[1:]


def test_a_beam_of_one_is_greedy(session):
    """Token by token with a state gives what the teacher-forced graph gives, row by row alone."""
    asked = batch()
    found = [ids.tolist() for ids in session.write(asked, beam=1, max_new=MOST)]

    assert [greedy_again(session, source) for source in asked["source"]] == found


@pytest.mark.parametrize("beam", [1, 3, 5])
def test_both_runtimes_write_the_same(sessions, beam):
    """PyTorch and ONNX Runtime choose the same tokens."""
    first, second = (one.write(batch(), beam=beam, max_new=MOST) for one in sessions)

    assert [ids.tolist() for ids in first] == [ids.tolist() for ids in second]


@pytest.mark.parametrize("beam", [2, 5])
def test_a_row_is_written_alike_alone(session, beam):
    """Whatever other rows there are, and however long they go on."""
    asked = batch()
    together = session.write(asked, beam=beam, max_new=MOST)
    for row, text in enumerate(together):
        alone = {name: value[row : row + 1] for name, value in asked.items()}

        assert text.tolist() == session.write(alone, beam=beam, max_new=MOST)[0].tolist()


def test_reading_on_gives_the_logits_of_the_whole(session):
    """Place by place, with rows taken in another order on the way."""
    asked, order = batch(), np.array([3, 1, 1, 0, 4])
    target = np.random.default_rng(1).integers(2, END, (5, 7))
    target[:, 0] = END
    reading = Reading(session, asked, 5)
    for place in range(3):
        reading(target[:, place : place + 1])
    reading.pick(order)
    reading.pick_sources(order)
    taken = {"source": asked["source"][order], "target": target[order]}
    whole = session(taken)["logits"]
    for place in range(3, 7):
        found = reading(taken["target"][:, place : place + 1])

        np.testing.assert_allclose(whole[:, place], found, atol=2e-4 * np.abs(whole).max())


class Table:
    """A language of two tokens and an end: the next one hangs on the last alone."""

    signature = Signature(
        (TensorSpec("source", "int64", ("batch", "time")),
         TensorSpec("target", "int64", ("batch", "target_time"))),
        (TensorSpec("logits", "float32", ("batch", "target_time", 5)),),
        state=(TensorSpec("past.0.seen", "float32", ("batch", 1)),),
    )  # fmt: skip

    def __init__(self, shares):
        self.logits = np.log(np.array(shares))

    def encode(self, batch):
        return {}

    def step(self, ids, carried):
        return self.logits[ids], {"past.0.seen": carried["past.0.seen"] + 1}


# rows: what follows padding, unknown, 2, 3, and the beginning, which is the end; columns the same
TRAP = Table([[1] * 5, [1] * 5, [1, 1, 40, 40, 20], [1, 1, 2, 2, 96], [1, 1, 55, 45, 1e-9]])
ASKED = {"source": np.array([[2, 2, 2]]), "target": np.array([[4]])}


def test_a_wider_beam_finds_what_greedy_misses():
    """The first step of the better text is the worse one."""
    assert [3] == beam_search(TRAP, ASKED, beam=2, length_penalty=0)[0].tolist()
    assert 2 == beam_search(TRAP, ASKED, beam=1, length_penalty=0, max_new=4)[0][0]


# every next token is likely, and no end is
ENDLESS = Table([[1] * 5, [1] * 5, [1, 1, 1, 97, 0.1], [1, 1, 97, 1, 0.1], [1, 1, 97, 1, 0.1]])


@pytest.mark.parametrize("beam", [1, 3, 4, 5])
@pytest.mark.parametrize("max_new", [2, 6])
def test_a_text_at_the_limit_is_held_against_those_that_ended(beam, max_new):
    """A poor text that ended early doesn't win because a far likelier one met the limit."""
    (found,) = beam_search(ENDLESS, ASKED, beam=beam, max_new=max_new)

    assert [2, 3, 2, 3, 2, 3][:max_new] == found.tolist()


def test_it_finds_the_best_of_all_texts():
    """With as many beams as texts, the one of highest score among all, counted one by one."""
    most, alpha = 3, 0.6
    shares = np.exp(log_softmax(TRAP.logits))

    def score(text):
        steps = zip([4, *text], [*text, 4], strict=True)
        return sum(math.log(shares[a, b]) for a, b in steps) / ((6 + len(text)) / 6) ** alpha

    texts = [[]]
    for length in range(1, most):
        texts += [[*text, one] for text in texts if len(text) == length - 1 for one in (2, 3)]
    found = beam_search(TRAP, ASKED, beam=40, length_penalty=alpha, max_new=most)[0]

    assert max(texts[1:], key=score) == found.tolist()


@pytest.mark.parametrize(("how", "words"), [
    ({"beam": 0}, "beam is 0"), ({"beam": 65}, "beam is 65"),
    ({"length_penalty": -1}, "length_penalty is -1"),
])  # fmt: skip
def test_what_cannot_be_followed_is_refused(how, words):
    """With its name."""
    with pytest.raises(ConfigError, match=words):
        beam_search(TRAP, ASKED, **how)


HOW = {"temperature": 80.0, "top_k": 6, "seed": 4, "max_new": MOST}


def test_draws_hang_on_the_source_and_the_seed(sessions):
    """Both runtimes draw the same tokens, of a row alone as of many; another seed draws others."""
    asked = batch()
    found = [ids.tolist() for ids in sessions[0].write(asked, **HOW)]
    alone = [sessions[0].write({name: value[row : row + 1] for name, value in asked.items()}, **HOW)
             for row in range(5)]  # fmt: skip

    assert found == [ids.tolist() for ids in sessions[1].write(asked, **HOW)]
    assert found == [ids.tolist() for (ids,) in alone]
    assert found != [ids.tolist() for ids in sessions[0].write(asked, **{**HOW, "seed": 5})]


def test_draws_follow_the_distribution():
    """Over many seeds, the first token; a single likeliest one is what greedy takes."""
    wanted = distribution(TRAP.logits[4], Writing(temperature=0.5))
    first = [sample(TRAP, ASKED, temperature=0.5, seed=seed, max_new=1)[0] for seed in range(3000)]
    found = np.bincount([ids[0] for ids in first], minlength=5) / len(first)

    assert pytest.approx(wanted, abs=0.03) == found
    greedy = sample(TRAP, ASKED, temperature=1.0, top_k=1, max_new=4)[0]
    assert [2, 2, 2, 2] == greedy.tolist()


def test_what_is_drawn_is_told_as_it_comes():
    """Each time all ids so far; a search knows no text before its end."""
    told = []
    session = OnnxSession.__new__(OnnxSession)  # what it writes with is the table below
    session.signature, session.step, session.encode = TRAP.signature, TRAP.step, TRAP.encode
    (drawn,) = session.write(ASKED, temperature=0.1, top_k=1, max_new=3,
                             told=lambda ids: told.append(list(ids)))  # fmt: skip
    searched = []
    session.write(ASKED, max_new=3, told=searched.append)

    assert [[2], [2, 2], [2, 2, 2]] == told
    assert told[-1] == drawn.tolist()
    assert [] == searched


def test_a_session_writes_as_shipped_unless_told_otherwise(session):
    """What is given goes over it, and what that makes idle is left out."""
    asked, shipped = batch(), session.decode
    greedy, drawn = (
        [ids.tolist() for ids in session.write(asked, **how)]
        for how in ({"beam": 1, "max_new": MOST}, HOW)
    )
    try:
        session.decode = {"beam": 1, "max_new": MOST}
        assert greedy == [ids.tolist() for ids in session.write(asked)]
        assert drawn == [ids.tolist() for ids in session.write(asked, **HOW)]
        session.decode = HOW
        assert drawn == [ids.tolist() for ids in session.write(asked)]
        assert greedy == [ids.tolist() for ids in session.write(asked, temperature=0, beam=1)]
        with pytest.raises(ConfigError, match="beam: nothing reads it where tokens are drawn"):
            session.write(asked, beam=1)
    finally:
        session.decode = shipped
