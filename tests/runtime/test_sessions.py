"""Sessions: an artifact in, the model's own numbers out, whatever runs it."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from modelwright.core import artifact
from modelwright.core.errors import ConfigError, IntegrityError
from modelwright.core.signature import Signature, TensorSpec
from modelwright.models.catalog import MODELS, ModelSpec, build
from modelwright.runtime.catalog import open_session
from modelwright.runtime.torch_session import load_model
from modelwright.train.save import write_trained

SHAPE, CLASSES = (1, 8, 8), 4
MANIFEST = {"task": "image-classification", "labels": list("abcd"), "preprocess": {}, "target": {},
            "digest": "of the parent"}  # fmt: skip


def spec(family="cnn", size="tiny", classes=CLASSES, **more):
    image = {"kind": "image", "shape": list(SHAPE), "mean": [120.0], "std": [60.0]}
    return ModelSpec(family, size, image, {"kind": "classes", "num_classes": classes}, **more)


def images(number=5):
    return np.random.default_rng(0).integers(0, 256, (number, *SHAPE), np.uint8)


@pytest.fixture(autouse=True)
def _threads():
    """Opening a session sets PyTorch's threads for the process; put them back."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=MODELS)
def trained(request, tmp_path):
    """An artifact of kind "trained" and the model in it, its norms' statistics moved."""
    model = build(spec(request.param))
    for _ in range(3):
        model(torch.from_numpy(images()))
    return write_trained(tmp_path / "model", model, spec(request.param), MANIFEST, {}), model.eval()


def test_a_torch_session_is_the_model(trained):
    """Bitwise the logits of the model that was saved, and their softmax."""
    made, model = trained
    outputs = open_session(artifact.open_artifact(made.folder))({"image": images()})
    with torch.inference_mode():
        logits = model(torch.from_numpy(images()))

    assert ["logits", "probabilities"] == list(outputs)
    np.testing.assert_array_equal(logits.numpy(), outputs["logits"])
    np.testing.assert_array_equal(logits.softmax(-1).numpy(), outputs["probabilities"])


def test_a_session_keeps_what_its_signature_says(trained):
    """Names, dtypes and shapes of what comes out are those of the manifest."""
    session = open_session(trained[0])
    outputs = session({"image": images(3)})
    for one in session.signature.outputs:
        assert one.dtype == outputs[one.name].dtype.name
        assert tuple(3 if size == "batch" else size for size in one.shape) == (
            outputs[one.name].shape
        )
    assert [("image", "uint8", ("batch", *SHAPE))] == [
        (one.name, one.dtype, one.shape) for one in session.signature.inputs
    ]


def test_a_loaded_model_is_ready_to_answer(trained):
    """In evaluation mode, every weight and statistic as saved."""
    made, model = trained
    loaded = load_model(artifact.open_artifact(made.folder))
    saved = model.state_dict()

    assert not loaded.training
    assert set(saved) == set(loaded.state_dict())
    assert all(torch.equal(saved[name], value) for name, value in loaded.state_dict().items())


def test_images_in_any_layout(trained):
    """A view that is not contiguous is answered as its copy."""
    session, one = open_session(trained[0]), images(6)[::2]

    np.testing.assert_array_equal(
        session({"image": one.copy()})["logits"], session({"image": one})["logits"]
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_what_was_asked_for(trained, threads):
    """The torch runtime computes with that many threads, and gives the process its own back."""
    before, seen = torch.get_num_threads(), []
    session = open_session(trained[0], threads=threads)
    session._model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    session({"image": images()})

    assert [threads] == seen
    assert before == torch.get_num_threads()


def test_a_closed_session_holds_no_model(trained):
    """After close() it cannot be called."""
    session = open_session(trained[0])
    session.close()
    with pytest.raises(AttributeError):
        session({"image": images()})


@pytest.mark.parametrize(
    "other",
    [spec(size="small"), spec("rnn"), spec(args={"widths": [4, 4]}),
     spec(classes=CLASSES + 1), spec(args={"of_another_version": True})],
    ids=["size", "family", "widths", "classes", "version"],
)  # fmt: skip
def test_weights_of_another_architecture_are_refused(tmp_path, other):
    """A sound folder whose weights do not fit the architecture that it names ends with code 4."""
    made = write_trained(tmp_path / "model", build(spec()), other, MANIFEST, {})
    with pytest.raises(IntegrityError, match=f"the weights do not fit {other.name}") as caught:
        open_session(artifact.open_artifact(made.folder))

    assert str(made.folder) in caught.value.what
    assert 4 == caught.value.exit_code


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\0" * 100],
                         ids=["empty", "words", "zeros"])  # fmt: skip
def test_a_file_without_weights_is_refused(tmp_path, content):
    """A sound folder whose model file is no safetensors file ends with code 4 too."""
    made = artifact.write(
        tmp_path / "model", "trained", model_file="model.safetensors",
        fill=lambda folder: (folder / "model.safetensors").write_bytes(content),
        signature=Signature((), ()), extras={}, model=spec().to_json(),
    )  # fmt: skip
    with pytest.raises(IntegrityError, match=str(made.folder)):
        open_session(made)


def graph() -> onnx.ModelProto:
    """Sums of the pixels, one weight a class; whole numbers, so exact."""
    weights = np.arange(64 * CLASSES, dtype=np.float32).reshape(64, CLASSES) % 7
    nodes = [helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
             helper.make_node("Flatten", ["numbers"], ["rows"]),
             helper.make_node("MatMul", ["rows", "weights"], ["logits"]),
             helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1)]  # fmt: skip
    made = helper.make_graph(
        nodes, "toy", [helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", *SHAPE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", CLASSES])
         for name in ("logits", "probabilities")],
        [numpy_helper.from_array(weights, "weights")],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


SIGNATURE = Signature(
    (TensorSpec("image", "uint8", ("batch", *SHAPE)),),
    # in another order than the graph's: names decide, not places
    tuple(TensorSpec(name, "float32", ("batch", CLASSES)) for name in ("probabilities", "logits")),
)


def write_graph(folder, kind="onnx", content=None):
    content = graph().SerializeToString() if content is None else content
    return artifact.write(
        folder, kind, model_file="model.onnx", signature=SIGNATURE, extras={},
        fill=lambda partial: (partial / "model.onnx").write_bytes(content),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["onnx", "deploy"])
def test_an_onnx_session_is_the_graph(tmp_path, kind):
    """The graph's own sums, by the names of the signature."""
    outputs = open_session(write_graph(tmp_path / "model", kind))({"image": images()})
    weights = np.arange(64 * CLASSES).reshape(64, CLASSES) % 7
    expected = images().reshape(5, 64).astype(np.int64) @ weights

    assert ["probabilities", "logits"] == list(outputs)
    np.testing.assert_array_equal(expected, outputs["logits"])
    np.testing.assert_allclose(np.ones(5), outputs["probabilities"].sum(1), rtol=1e-6)


@pytest.mark.parametrize("content", [b"", b"not a graph", graph().SerializeToString()[:-40]],
                         ids=["empty", "words", "cut"])  # fmt: skip
def test_a_graph_that_cannot_be_loaded_is_refused(tmp_path, content):
    """A sound folder whose graph is none ends with code 4 and names the runtime."""
    made = write_graph(tmp_path / "model", content=content)
    with pytest.raises(IntegrityError, match=r"ONNX Runtime .* cannot load the graph"):
        open_session(made)


def test_a_kind_that_nothing_runs_is_refused(tmp_path):
    """An artifact that a later version wrote is bad input, and the kinds that run are listed."""
    with pytest.raises(ConfigError, match="tpu") as caught:
        open_session(write_graph(tmp_path / "model", "tpu"))

    assert "deploy" in str(caught.value)
