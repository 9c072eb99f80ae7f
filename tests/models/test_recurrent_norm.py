"""Recurrent nets with a norm behind each layer: what torch's layers and norms give, and no more."""

import onnx
import pytest
import torch
from torch import nn

from modelwright.compress.prune import prune
from modelwright.core.recipe import Model
from modelwright.export.onnx import export_onnx
from modelwright.models.carried import Carried
from modelwright.models.catalog import ModelSpec, build, count_params, examples
from modelwright.models.rnn import RecurrentBody
from modelwright.runtime.onnx_session import OnnxSession

from .test_sequences import CLOSE, PAIRS, TEXT, answers, shaken, texts

NORMED = {"norm": "layer", "num_layers": 2}
KINDS = ("classes of texts", "next of texts", "classes of sounds")


def made(pair: str) -> ModelSpec:
    return ModelSpec("rnn", "tiny", *PAIRS[pair], NORMED)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_norms_stand_behind_torchs_layers(cell, masked):
    """Two layers in both directions are two of torch's, each followed by a layer norm."""
    body = RecurrentBody(6, hidden_dim=5, num_layers=2, cell=cell, norm="layer").eval()
    sequence = torch.randn(3, 7, 6)
    wanted = sequence
    for layer in range(2):
        own = (nn.LSTM if cell == "lstm" else nn.GRU)(
            wanted.shape[2], 5, batch_first=True, bidirectional=True
        )
        weights = body.layers.state_dict()
        own.load_state_dict({name: weights[name.replace("l0", f"l{layer}")]
                             for name in own.state_dict()})  # fmt: skip
        wanted = nn.functional.layer_norm(own(wanted)[0], (10,))
    mask = torch.ones(3, 7, dtype=torch.bool) if masked else None

    torch.testing.assert_close(body(sequence, mask), wanted, rtol=0, atol=1e-6)


def test_padding_changes_nothing():
    """A text is answered alone as beside longer ones."""
    model, rows = shaken(made("classes of texts")), texts((5, 1, 40, 17))
    together = answers(model, rows, range(4))
    alone = torch.cat([answers(model, rows, [row]) for row in range(4)])
    scale = together.abs().max()

    torch.testing.assert_close(alone / scale, together / scale, **CLOSE)


def test_the_state_carries_on():
    """A text read place by place gives what it gives at once."""
    one = made("next of texts")
    model = shaken(one)
    ids = torch.randint(1, TEXT["vocab_size"], (2, 6, TEXT["features"]))
    past = [torch.zeros(state.sizes(2, 0, 0)) for state in one.signature.state]
    found = []
    with torch.inference_mode():
        for place in range(6):
            carried = Carried(past)
            found.append(model.decode(ids[:, place : place + 1], [], carried))
            past = carried.present

        torch.testing.assert_close(torch.cat(found, 1), model(ids), **CLOSE)


@pytest.mark.parametrize("pair", KINDS)
def test_the_graph_keeps_the_operators(pair, tmp_path):
    """The exported graph has one recurrent operator a layer and direction, norms between, and the
    same answers."""
    one = made(pair)
    model = shaken(one)
    export_onnx(model, tmp_path / "model.onnx", one)
    session = OnnxSession(tmp_path / "model.onnx", one.signature, 1)
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    inputs = examples(one, 3, None)
    found = session({name: value.numpy() for name, value in inputs.items()})
    with torch.inference_mode():
        wanted = model(*inputs.values())

    assert kinds.count("LSTM") == (2 if "next" in pair else 4)
    assert kinds.count("LayerNormalization") == 2
    name = one.signature.outputs[0].name
    if name == "logits":
        torch.testing.assert_close(torch.from_numpy(found[name]), wanted, rtol=0, atol=1e-4)


def test_units_are_pruned_with_their_norms():
    """Half of the units go, of both directions and of the norms behind them."""
    one = made("classes of texts")
    smaller, spec = prune(shaken(one), one, 0.5)

    assert spec.arguments["hidden_dim"] == one.arguments["hidden_dim"] // 2
    assert spec.arguments["norm"] == "layer"
    assert len(smaller.body.norms[0].weight) == 2 * spec.arguments["hidden_dim"]
    assert count_params(build(spec)) == count_params(smaller)


def test_towers_keep_their_options():
    """Both towers of a model of pictures and texts have the norm, and other arguments beside it."""
    inputs = {"kind": "image_text", "image": {}, "text": {}}
    one = ModelSpec.asked("rnn", "tiny", inputs, {"kind": "vectors"}, {"norm": "layer"})
    own = one.but({"image": {"hidden_dim": 8}, "text": {}}).arguments

    assert [own[tower]["norm"] for tower in ("image", "text")] == ["layer", "layer"]
    assert own["image"]["hidden_dim"] == 8


@pytest.mark.parametrize(
    ("family", "norm", "what"),
    [
        ("auto", "layer", "norm: only the family rnn or transformer reads it, so name one of them"),
        ("cnn", "layer", "norm: only the family rnn or transformer reads it"),
        ("rnn", "rms", "norm: the family rnn takes layer"),
    ],
)
def test_another_family_has_no_norm_to_choose(family, norm, what):
    """A key that the family does not read is refused."""
    with pytest.raises(ValueError, match=what):
        Model(family=family, norm=norm)
