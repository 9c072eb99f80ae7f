"""The exported file: what it takes and gives, what it holds, what it leaves alone."""

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from modelwright.core.artifact import open_artifact
from modelwright.core.errors import ConfigError, ParityError, Unsupported
from modelwright.core.signature import TensorSpec
from modelwright.export.catalog import FORMATS, export
from modelwright.export.onnx import check_graph, export_onnx, traced
from modelwright.runtime.catalog import open_session

from .conftest import spec_of

pytestmark = pytest.mark.xdist_group("exports")  # what the fixture exports is made once


@pytest.mark.parametrize("family", ["cnn", "rnn", "transformer"])
def test_the_graph_has_the_artifacts_signature(family, exports):
    """Every family exports to image -> logits, probabilities with a free batch size."""
    signature = exports(family).signature

    assert (TensorSpec("image", "uint8", ("batch", 1, 8, 8)),) == signature.inputs
    assert (
        TensorSpec("logits", "float32", ("batch", 10)),
        TensorSpec("probabilities", "float32", ("batch", 10)),
    ) == signature.outputs


@pytest.mark.parametrize("family", ["cnn", "rnn", "transformer"])
def test_the_same_weights_give_the_same_bytes(family, exports, tmp_path):
    """Exporting again, after other exports and from a copy, changes no byte."""
    exported = exports(family)
    again = tmp_path / "again.onnx"
    export_onnx(copy.deepcopy(exported.model), again, exported.spec)

    assert exported.path.read_bytes() == again.read_bytes()


def test_batch_norm_is_folded_exactly(cnn):
    """No batch norm is left in the graph, and it gives what PyTorch gives with them."""
    proto = onnx.load(cnn.path)
    wanted = cnn.before({"image": cnn.images})["logits"]
    found = cnn.after()({"image": cnn.images})["logits"]

    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    np.testing.assert_allclose(wanted, found, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("family", ["cnn", "rnn", "transformer"])
def test_nothing_is_stored_but_the_model(family, exports):
    """No stack traces, paths or inferred shapes; a tiny file is little more than its weights."""
    exported = exports(family)
    content = exported.path.read_bytes()
    weights = sum(4 * value.numel() for value in exported.model.parameters())

    assert [] == [word for word in (b".py", b"Traceback", b"pkg.", b"/home") if word in content]
    assert len(content) - weights < 6000


def test_the_callers_model_is_left_alone():
    """Mode, weights, memory format and random state are as they were."""
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), Floats(), nn.Linear(64, 10))
    model[3].weight.data = model[3].weight.data.t().contiguous().t()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    strides, state = model[3].weight.stride(), torch.get_rng_state()

    traced(model, spec_of())

    assert model.training and model[1].training
    assert strides == model[3].weight.stride()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_a_fixed_batch_is_refused(cnn, tmp_path):
    """A graph whose batch size is a number is not accepted as an export."""

    def fix_batch(graph):
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 3

    path = cnn.tampered(tmp_path, fix_batch)

    with pytest.raises(ParityError) as caught:
        check_graph(path, spec_of())
    assert "image uint8 [3, 1, 8, 8]" in caught.value.what
    assert "image uint8 ['batch', 1, 8, 8]" in caught.value.expected


def test_a_graph_that_only_says_its_batch_is_free_is_refused(cnn, tmp_path):
    """A fixed size inside, behind a free one in the signature, shows when the graph is run."""

    def fix_inside(graph):
        gemm = next(node for node in graph.node if node.op_type == "Gemm")
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([3, 16]), "fixed"))
        place = list(graph.node).index(gemm)
        graph.node.insert(
            place, onnx.helper.make_node("Reshape", [gemm.input[0], "fixed"], ["three"])
        )
        graph.node[place + 1].input[0] = "three"

    path = cnn.tampered(tmp_path, fix_inside)

    with pytest.raises(ParityError, match="does not run"):
        check_graph(path, spec_of())


def test_another_number_of_classes_is_refused(cnn):
    """The file is held against the number of classes that the artifact promises."""
    with pytest.raises(ParityError, match="logits float32"):
        check_graph(cnn.path, spec_of(num_classes=9))


class Floats(nn.Module):
    def forward(self, image):
        return image.float()


class Branches(nn.Module):
    def forward(self, image):
        return image.float().flatten(1)[:, :10] * (1 if image.sum() > 0 else 2)


def test_what_pytorch_cannot_export_is_refused_with_a_reason(tmp_path):
    """A model that decides by its data is refused by name, and no file is left."""
    with pytest.raises(Unsupported, match="cannot export Branches") as caught:
        export_onnx(Branches(), tmp_path / "model.onnx", spec_of())

    assert caught.value.repair
    assert [] == list(tmp_path.iterdir())


MANIFEST = {
    "task": "image-classification",
    "labels": [str(digit) for digit in range(10)],
    "preprocess": {"channels": 1, "height": 8, "width": 8, "files": ["words.json"]},
    "model": spec_of().to_json(),
    "digest": "abc",
    "files": {"model.safetensors": {}},
}


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_makes_an_artifact_that_runs(format, cnn, tmp_path):
    """An exported folder verifies, keeps what it is for, names its parent, and answers."""
    made = export(
        cnn.model, MANIFEST, tmp_path / "export", extras={"words.json": b"[]"}, format=format,
        target={"threads": 1},
    )  # fmt: skip

    artifact = open_artifact(tmp_path / "export", kinds=(format,))
    outputs = open_session(artifact)({"image": cnn.images})
    assert made == artifact
    assert MANIFEST["labels"] == artifact.labels
    assert "abc" == artifact.manifest["parent"]
    assert {"words.json": b"[]"} == artifact.extras
    assert {"threads": 1} == artifact.manifest["target"]
    assert (70, 10) == outputs["probabilities"].shape
    assert ["export"] == [path.name for path in tmp_path.iterdir()]


def test_an_unknown_format_suggests_the_nearest(cnn, tmp_path):
    """A misspelt format names the one that was meant."""
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        export(cnn.model, MANIFEST, tmp_path / "export", extras={}, format="onx")
