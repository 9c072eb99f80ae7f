"""Text from a language model: what is drawn, where it ends, and that every runtime writes alike."""

import numpy as np
import pytest
import torch

from modelwright.core.errors import ConfigError
from modelwright.data import language
from modelwright.export.onnx import export_onnx
from modelwright.models.catalog import MODELS, ModelSpec, build
from modelwright.runtime.decode import Writing, choose, distribution
from modelwright.runtime.generate import Cached, Recomputed, scores_of, written
from modelwright.runtime.onnx_session import OnnxSession
from modelwright.runtime.torch_session import TorchSession

CHARS = language.learn("abcdefgh ", "characters", 100)
BYTES = language.learn("", "bytes", 258)
WINDOW = 12
LOGITS = np.log(np.array([9, 9, 5, 1, 2, 2], np.float64))  # of padding, unknown, and four tokens


def share(*weights):
    return pytest.approx(np.array([0, 0, *weights]) / sum(weights))


@pytest.mark.parametrize(("how", "wanted"), [
    ({}, share(5, 1, 2, 2)),
    ({"temperature": 0.5}, share(25, 1, 4, 4)),
    ({"temperature": 2}, share(5**0.5, 1, 2**0.5, 2**0.5)),
    ({"top_k": 1}, share(1, 0, 0, 0)),
    ({"top_k": 2}, share(5, 0, 2, 0)),  # the first of two equal ones
    ({"top_k": 99}, share(5, 1, 2, 2)),
    ({"top_p": 0.4}, share(1, 0, 0, 0)),
    ({"top_p": 0.5}, share(1, 0, 0, 0)),
    ({"top_p": 0.51}, share(5, 0, 2, 0)),
    ({"top_p": 0.9}, share(5, 0, 2, 2)),
    ({"top_p": 0.91}, share(5, 1, 2, 2)),
    ({"top_k": 3, "top_p": 0.56}, share(5, 0, 2, 0)),  # 5/9 is not enough
    ({"temperature": 0.5, "top_k": 3, "top_p": 0.76}, share(25, 0, 4, 0)),
    ({"top_p": 1e-13}, share(1, 0, 0, 0)),
    ({"temperature": 1e-310}, share(1, 0, 0, 0)),
])  # fmt: skip
def test_the_distribution_is_that_of_the_books(how, wanted):
    """Temperature first, then the k likeliest, then the fewest that hold p of what is left."""
    assert wanted == distribution(LOGITS, Writing(**how))


def test_draws_follow_the_distribution():
    """Over many draws; greedy takes the likeliest of what can be written."""
    draw = np.random.default_rng(1)
    found = np.bincount([choose(LOGITS, Writing(), draw) for _ in range(20_000)], minlength=6)

    assert pytest.approx(np.array([0, 0, 0.5, 0.1, 0.2, 0.2]), abs=0.012) == found / 20_000
    assert 2 == choose(LOGITS, Writing(temperature=0), draw)


@pytest.mark.parametrize(("name", "value"), [
    ("max_new", 0), ("temperature", -1), ("temperature", float("nan")), ("top_k", 0), ("top_p", 0),
    ("top_p", 1.1), ("seed", -1),
])  # fmt: skip
def test_what_cannot_be_followed_is_refused(name, value):
    """With the name of it."""
    with pytest.raises(ConfigError, match=name):
        Writing(**{name: value})


def script(tokens, text, prompt):
    """Scores that spell out a text, whatever is drawn."""
    ids = tokens.encode(prompt + text)

    def scores(so_far):
        made = np.full(len(tokens), -50.0)
        made[ids[len(so_far)]] = 50
        return made

    return scores


def pieces(text, tokens=CHARS, prompt="a", **how):
    how = Writing(**{"max_new": len(tokens.encode(text)), **how})
    return list(written(script(tokens, text, prompt), tokens, prompt, how))


def test_text_comes_in_pieces():
    """One a token, and nothing but what follows the prompt."""
    assert ["b", "c", "d", ""] == pieces("bcd")
    assert "bc" == "".join(pieces("bcd", max_new=2))


def test_a_character_comes_when_it_is_whole():
    """Bytes wait for their others; what stays broken at the end is shown as such."""
    assert ["天", "a", ""] == [one for one in pieces("天a", BYTES) if one] + [""]
    assert "天\ufffd" == "".join(pieces("天地", BYTES, max_new=5))


@pytest.mark.parametrize(("text", "stop", "wanted"), [
    ("bccdef", "cd", "bc"),
    ("bccdef", "cde", "bc"),
    ("bccdef", "bc", ""),
    ("bccdef", "h", "bccdef"),
    ("bcfcfg", "cfg", "bcf"),
    ("bcfcfg", "gg", "bcfcfg"),
])  # fmt: skip
def test_writing_ends_at_a_text(text, stop, wanted):
    """What could be its beginning is held back, and given when it is not."""
    assert wanted == "".join(pieces(text, stop=stop))


def test_an_empty_prompt_is_refused():
    """There is no token to begin with."""
    with pytest.raises(ConfigError, match="prompt is empty"):
        list(written(lambda ids: LOGITS, CHARS, "", Writing()))


KINDS = {
    **{family: (family, {}) for family in MODELS},
    **{one: ("transformer", {"positions": one}) for one in ("sinusoidal", "learned")},
}


@pytest.fixture(
    scope="module",
    params=[  # each exported once, in one process
        pytest.param(
            kind,
            id=name,
            marks=[
                pytest.mark.xdist_group(f"generate-{name}"),
                *([] if name in MODELS else [pytest.mark.slow]),
            ],
        )
        for name, kind in KINDS.items()
    ],
)
def sessions(request, tmp_path_factory):
    """One model in PyTorch and as a graph in ONNX Runtime."""
    family, args = request.param
    stream = {"kind": "stream", "vocab_size": len(CHARS), "features": 1, "length": WINDOW,
              "max_length": WINDOW, "unit": "characters"}  # fmt: skip
    outputs = {"kind": "next", "num_classes": len(CHARS), "labels": CHARS.labels}
    spec = ModelSpec(family, "tiny", stream, outputs, args)
    torch.manual_seed(0)
    model = build(spec).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp(family) / "model.onnx"
    signature = export_onnx(model, path, spec)
    return TorchSession(model, spec, 1), OnnxSession(path, signature, 1)


def text_of(session, **how):
    scores = Recomputed(session, WINDOW)
    return "".join(written(scores, CHARS, "bad ", Writing(**{"max_new": 40, **how})))


def test_greedy_is_the_same_each_time(sessions):
    """Whatever the seed; the one likeliest token is the same."""
    session, _ = sessions
    greedy = text_of(session, temperature=0)

    assert 40 == len(greedy)
    assert greedy == text_of(session, temperature=0, seed=5)
    assert greedy == text_of(session, top_k=1, seed=7)


def test_a_seed_decides_what_is_drawn(sessions):
    """The same again; another writes something else."""
    session, _ = sessions

    assert text_of(session, seed=1) == text_of(session, seed=1)
    assert text_of(session, seed=1) != text_of(session, seed=2)


@pytest.mark.parametrize("how", [{"temperature": 0}, {"seed": 3}, {"top_k": 4, "temperature": 0.7}])
def test_every_runtime_writes_the_same(sessions, how):
    """The graph and the trained model, far beyond a window's length."""
    trained, exported = sessions

    assert text_of(trained, **how) == text_of(exported, **how)


@pytest.mark.parametrize("number", [0, 1], ids=["torch", "onnx"])
def test_each_token_is_read_once_and_changes_nothing(sessions, number):
    """With a state that is carried on, the very text that looking at all tokens again gives, far
    beyond the window."""
    session = sessions[number]
    cached, again = Cached(session, WINDOW), Recomputed(session, WINDOW)
    ids = [int(one) for one in CHARS.encode("bad hedge facade")]
    for end in range(4, len(ids) + 1):
        np.testing.assert_allclose(again(ids[:end]), cached(ids[:end]), atol=2e-4)

    assert isinstance(scores_of(session, WINDOW), Cached)
    how = Writing(max_new=40, temperature=0)
    assert list(written(again, CHARS, "bad ", how)) == list(written(cached, CHARS, "bad ", how))


def test_another_text_begins_anew(sessions):
    """What was read of one text is not taken for another's."""
    session, _ = sessions
    cached, ids = Cached(session, WINDOW), [4, 5, 6, 7]
    first = cached(ids)
    cached([5, 5, 5, 5, 5])

    np.testing.assert_allclose(first, cached(ids), atol=1e-5)
