"""Weights alone in int8: a small file, the answers of the float graph, and none of its time."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto

from modelwright.compress.calibrate import observe
from modelwright.compress.quantize import quantize_graph
from modelwright.compress.weights import quantize_weights
from modelwright.core.errors import NothingChanged
from modelwright.export.onnx import export_onnx
from modelwright.models.catalog import MODELS, ModelSpec
from modelwright.plan.time import made_up
from modelwright.runtime.onnx_session import OnnxSession

from .conftest import INPUTS, OUTPUTS, randomised

TEXT = {"kind": "text", "vocab_size": 600, "features": 1, "length": 12, "max_length": 40}
SOUND = {"kind": "audio", "rate": 8000, "num_mels": 20, "length": 4000}
END = 399
PAIRS = {"kind": "pairs", "vocab_size": 400, "length": 8, "max_length": 12, "end": END}
SEQUENCE = {"kind": "sequence", "num_classes": 400, "labels": ["?"] * 400, "end": END}


class Rounded:
    """A model's graph as exported and with its weights in int8."""

    def __init__(self, spec, folder):
        self.spec, self.folder = spec, folder
        self.paths = folder / "model.onnx", folder / "int8.onnx"
        export_onnx(randomised(spec), self.paths[0], spec)
        self.graph = onnx.load(self.paths[0])
        self.number = quantize_weights(self.graph, self.paths[1])  # works on a copy

    def sessions(self):
        return [OnnxSession(path, self.spec.signature, 1) for path in self.paths]

    def share(self):
        """Of the bytes."""
        before, after = (path.stat().st_size for path in self.paths)
        return after / before


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """family -> its small model over texts, exported and rounded once; read only."""
    made: dict[str, Rounded] = {}

    def get(family):
        if family not in made:
            spec = ModelSpec(family, "small", TEXT, OUTPUTS)
            made[family] = Rounded(spec, tmp_path_factory.mktemp(family))
        return made[family]

    return get


@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=pytest.mark.xdist_group(f"small-{one}")) for one in MODELS]
)
def test_a_graph_answers_as_before_from_a_third_of_the_bytes(family, small):
    """Tables, products, convolutions and recurrences alike: numbers move by rounding."""
    made = small(family)
    batch = made_up(made.spec, 32).batch(np.arange(32))
    before, after = (one(batch)["logits"] for one in made.sessions())

    assert made.share() < 0.33
    assert made.number >= 3
    assert 0 < np.abs(after - before).max() < 0.03 * np.abs(before).max()


@pytest.mark.parametrize("size", ["small", pytest.param("base", marks=pytest.mark.slow)])
def test_recurrences_over_pictures_are_rounded(size, tmp_path):
    """Over rows of one length the exporter puts gates in order by slices of the weights."""
    made = Rounded(ModelSpec("rnn", size, INPUTS, OUTPUTS), tmp_path)
    batch = made_up(made.spec, 32).batch(np.arange(32))
    before, after = (one(batch)["logits"] for one in made.sessions())

    assert "Slice" in {node.op_type for node in made.graph.graph.node}
    assert made.share() < 0.4
    assert 0 < np.abs(after - before).max() < 0.03 * np.abs(before).max()


@pytest.mark.xdist_group("small-rnn")
def test_the_runtime_turns_them_back_once(small, tmp_path):
    """What ONNX Runtime makes of the graph as it loads it holds float32 weights and no cast, so an
    answer costs what it cost; the file keeps its size."""
    made = small("rnn")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(made.paths[1]), options, providers=["CPUExecutionProvider"])
    stored, loaded = (onnx.load(path).graph for path in (made.paths[1], tmp_path / "loaded.onnx"))
    whole = [
        sum(tensor.data_type == TensorProto.INT8 for tensor in one.initializer)
        for one in (stored, loaded)
    ]

    assert [made.number, 0] == whole
    assert "LSTM" in {node.op_type for node in loaded.node}
    assert not any(node.name.startswith("Cast_model.") for node in loaded.node)


@pytest.mark.xdist_group("small-rnn")
def test_each_channel_has_its_scale(small):
    """No weight is off by more than half a step of its own channel."""
    made = small("rnn")
    own = {one.name: one for one in onnx.load(made.paths[1]).graph.initializer}
    for tensor in made.graph.graph.initializer:
        if tensor.name in own:
            continue
        values, whole, scales = (
            onnx.numpy_helper.to_array(one)
            for one in (tensor, own[f"{tensor.name}_int8"], own[f"{tensor.name}_scale"])
        )

        assert np.abs(whole * scales - values).max() <= 0.5001 * scales.max()
        assert scales.size in values.shape
        assert np.abs(whole).max() == 127


def test_what_is_written_token_by_token_goes_through(tmp_path):
    """A recurrent encoder and decoder, cut out of the graph, still write."""
    made = Rounded(ModelSpec("rnn", "tiny", PAIRS, SEQUENCE), tmp_path)
    source = np.random.default_rng(0).integers(2, END, (3, 6))
    asked = {"source": source, "target": np.full((3, 1), END)}
    whole, rounded = made.sessions()
    logits = [
        one({**asked, "target": np.repeat(asked["target"], 4, 1)})["logits"]
        for one in (whole, rounded)
    ]

    assert np.abs(logits[1] - logits[0]).max() < 0.05 * np.abs(logits[0]).max()
    assert 3 == len(rounded.write(asked, beam=2, max_new=5))


def test_a_spectrum_stays_as_it_is(tmp_path):
    """Fixed transforms are not learned: rounding them would change what is heard."""
    made = Rounded(ModelSpec("rnn", "small", SOUND, OUTPUTS), tmp_path)
    kept = {one.name for one in onnx.load(made.paths[1]).graph.initializer}

    assert {"model.embed.basis", "model.embed.filters"} <= kept


@pytest.mark.xdist_group("small-transformer")
def test_what_static_int8_left_is_taken(small, tmp_path):
    """Of a text model the table of words; products stay int8 as they are."""
    made = small("transformer")
    spec, rows = made.spec, made_up(made.spec, 32)
    quantize_graph(made.graph, observe(made.graph, rows), "minmax", tmp_path / "static.onnx")
    static = onnx.load(tmp_path / "static.onnx")
    number = quantize_weights(static, tmp_path / "both.onnx")
    both = OnnxSession(tmp_path / "both.onnx", spec.signature, 1)
    batch = rows.batch(np.arange(32))
    before = OnnxSession(tmp_path / "static.onnx", spec.signature, 1)(batch)["logits"]
    left = [one for one in onnx.load(tmp_path / "both.onnx").graph.initializer
            if one.data_type == TensorProto.FLOAT and math.prod(one.dims) >= 1024]  # fmt: skip

    assert 1 <= number < made.number
    assert [] == left
    assert np.abs(both(batch)["logits"] - before).max() < 0.1 * np.abs(before).max()
    assert (tmp_path / "both.onnx").stat().st_size < (tmp_path / "static.onnx").stat().st_size / 2


def test_a_graph_without_large_weights_is_refused(tmp_path):
    """Scales and nodes would cost more than rounding gives."""
    torch.manual_seed(0)
    with pytest.raises(NothingChanged, match="no weight has 1,024 numbers in float32"):
        Rounded(ModelSpec("cnn", "tiny", INPUTS, OUTPUTS, {"widths": (4, 8)}), tmp_path)
