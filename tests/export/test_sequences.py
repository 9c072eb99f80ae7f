"""Models over texts, sounds and series: exported, free in batch and time, and proven the same."""

import numpy as np
import onnx
import pytest
import torch

from modelwright.core.goals import METRICS
from modelwright.data.rows import Rows, ragged
from modelwright.export.edges import EDGES, edge_inputs
from modelwright.export.parity import check_hop
from modelwright.models.catalog import ModelSpec, build
from modelwright.models.embed import EMBEDS
from modelwright.plan.time import made_up
from modelwright.runtime.generate import Cached, Recomputed
from modelwright.runtime.onnx_session import OnnxSession
from modelwright.runtime.torch_session import TorchSession
from modelwright.tasks.catalog import TASKS

from .conftest import Traced

LABELS = ["O", "B-A", "I-A", "B-B", "I-B"]
TEXT = {"kind": "text", "vocab_size": 60, "features": 2, "length": 12, "max_length": 30}
STREAM = {**TEXT, "kind": "stream", "features": 1}
SOUND = {"kind": "audio", "rate": 8000, "num_mels": 20, "length": 2000}
SERIES = {"kind": "series", "length": 24, "patch": 8, "channels": ["a", "b", "c"],
          "std": [1.0, 0.5, 2.0]}  # fmt: skip
ITEMS = {"kind": "items", "vocab_size": 42, "features": 1, "length": 12, "max_length": 30}
KINDS = {
    "text-classification": (TEXT, {"kind": "classes", "num_classes": 5}),
    "tagging": (TEXT, {"kind": "tags", "num_classes": 5, "labels": LABELS}),
    "recommendation": (ITEMS, {"kind": "ranking", "num_classes": 40}),
    "audio-classification": (SOUND, {"kind": "classes", "num_classes": 5}),
    "transcription": ({**SOUND, "stack": 2}, {
        "kind": "letters", "num_classes": 5, "places": "time // 160 + 1",
        "labels": ["", "?", "a", "b", " "]}),
    "language-modeling": (STREAM, {"kind": "next", "num_classes": 60,
                                   "labels": ["", "?", *map(chr, range(58))]}),
    "forecasting": (SERIES, {"kind": "horizon", "horizon": 6, "mean": [1.0, 2.0, 3.0],
                             "std": [1.0, 0.5, 2.0]}),
}  # fmt: skip
FAMILIES = ("cnn", "rnn", "transformer")
# by default each kind with one family in turn; tests/conformance exports every pair
CASES = [
    pytest.param(family, task, marks=[
        pytest.mark.xdist_group(f"export-{family}-{task}"),  # exported once, in one process
        *([] if (place - row) % 3 == 0 else [pytest.mark.slow]),
    ])
    for row, family in enumerate(FAMILIES)
    for place, task in enumerate(KINDS)
]  # fmt: skip


def rows_of(spec: ModelSpec, number: int) -> Rows:
    """Noise of many lengths."""
    rows = made_up(spec, number)
    if spec.has_time:
        draw = np.random.default_rng(0)
        lengths = draw.integers(1, spec.inputs["length"] + 1, number)
        (name,) = rows.inputs
        cut = [rows.inputs[name][row][:length] for row, length in enumerate(lengths)]
        targets = rows.targets
        if not isinstance(targets, np.ndarray):
            targets = ragged([targets[row][:length] for row, length in enumerate(lengths)])
        rows = Rows({name: ragged(cut)}, targets, rows.origins)
    return rows


def model_of(family: str, task: str, **args):
    """A model without zeros, and its spec."""
    torch.manual_seed(0)
    spec = ModelSpec(family, "tiny", *KINDS[task], args)
    model = build(spec).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, spec


class Made(Traced):
    """Such a model, its graph and rows."""

    def __init__(self, family: str, task: str, path, **args) -> None:
        model, spec = model_of(family, task, **args)
        super().__init__(model, path, spec)
        self.task, self.rows = TASKS[task], rows_of(self.spec, 70)

    def hop(self, path=None):
        path = path or self.path
        return check_hop(
            "trained → onnx", TorchSession(self.model, self.spec, 1),
            OnnxSession(path, self.signature, 1), self.rows, self.spec, self.task,
            locate=self.against(path),
        )  # fmt: skip


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """(family, task) -> Made, each exported once a session."""
    found: dict[tuple[str, str], Made] = {}

    def get(family: str, task: str) -> Made:
        if (family, task) not in found:
            path = tmp_path_factory.mktemp(f"{family}-{task}") / "model.onnx"
            found[family, task] = Made(family, task, path)
        return found[family, task]

    return get


@pytest.mark.parametrize(("family", "task"), CASES)
def test_a_true_export_passes(made, family, task):
    """Every family's graph over every kind agrees with PyTorch, alone and in any batch."""
    one = made(family, task)
    hop = one.hop()

    assert [] == hop["failures"]
    assert hop["passed"] and hop["max_error"] < 5e-5 and hop["batch_error"] < 5e-5
    assert one.task.metric == hop["metric"]
    assert hop["metric_before"] == pytest.approx(hop["metric_after"], rel=1e-4)
    judged = one.spec.signature.outputs[0]
    places = judged.places(one.rows.lengths).sum() if judged.over_time else 70
    assert hop["decisions_total"] == (0 if task in ("forecasting", "recommendation") else places)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
@pytest.mark.parametrize(  # items are tokens as words are
    "task", ["tagging", "forecasting", pytest.param("recommendation", marks=pytest.mark.slow)]
)
def test_positions_of_every_kind_pass(tmp_path, task, positions):
    """Fixed and learned positions are the same in the graph, at every length."""
    hop = Made("transformer", task, tmp_path / "model.onnx", positions=positions).hop()

    assert [] == hop["failures"]
    assert hop["max_error"] < 5e-5 and hop["batch_error"] < 5e-5


ASKED = {"norm": "rms", "activation": "swiglu", "head_dim": 16}


def test_what_a_recipe_can_ask_of_a_transformer_passes(tmp_path):
    """RMS norms and SwiGLU are the same in the graph."""
    hop = Made("transformer", "text-classification", tmp_path / "model.onnx", **ASKED).hop()

    assert [] == hop["failures"]
    assert hop["passed"] and hop["max_error"] < 5e-5 and hop["batch_error"] < 5e-5


def test_what_a_recipe_can_ask_of_a_writer_passes(tmp_path):
    """The graph of a language model with these and shared keys, a skip from the embedding and
    capped logits agrees with PyTorch, and its state goes on."""
    args = {**ASKED, "num_kv_heads": 1, "num_layers": 2, "embed_skip": True, "soft_cap": 5.0}
    one = Made("transformer", "language-modeling", tmp_path / "model.onnx", **args)
    hop = one.hop()
    session = OnnxSession(one.path, one.signature, 1)
    cached, again = Cached(session, 30), Recomputed(session, 30)
    ids = list(range(5, 15))

    assert [] == hop["failures"]
    assert hop["passed"] and hop["max_error"] < 5e-5 and hop["batch_error"] < 5e-5
    assert np.abs(again(ids)).max() < 5
    for end in (1, 4, 10):
        np.testing.assert_allclose(again(ids[:end]), cached(ids[:end]), atol=2e-4)


@pytest.mark.parametrize(("family", "task"), CASES)
def test_a_wrong_graph_is_refused(made, family, task, tmp_path):
    """A last layer whose weights are one percent too large fails the hop, and a node is named."""
    one = made(family, task)
    proto = onnx.load(one.path)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    last = [
        node for node in proto.graph.node
        if node.op_type in ("Gemm", "MatMul") and node.input[1] in weights
    ][-1]  # fmt: skip
    weight = weights[last.input[1]]
    value = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
    weight.CopyFrom(onnx.numpy_helper.from_array(value, weight.name))
    onnx.save(proto, tmp_path / "wrong.onnx")
    hop = one.hop(tmp_path / "wrong.onnx")

    assert not hop["passed"]
    assert hop["first_differing_node"] is not None, hop["located"]


@pytest.mark.parametrize("task", KINDS)
def test_edge_inputs_go_through(task):
    """Each kind has edge inputs that its model takes; of unequal length where rows are so."""
    model, spec = model_of("cnn", task)
    edges = edge_inputs(spec)
    outputs = TorchSession(model, spec, 1)(edges.batch(np.arange(len(edges))))

    assert 4 <= len(edges) == len(set(edges.origins))
    assert spec.has_time == (edges.lengths is not None and len(set(edges.lengths)) > 1)
    assert all(np.isfinite(value).all() for value in outputs.values())


def test_every_kind_has_edge_inputs():
    """A new kind of data brings its own."""
    assert set(EMBEDS) == set(EDGES)


def test_a_metric_where_less_is_better_may_fall():
    """An error that shrinks is no loss; the direction is the metric's."""
    assert not METRICS[TASKS["forecasting"].metric].higher_is_better
    task = TASKS["forecasting"]
    model, spec = model_of("cnn", "forecasting")
    session, rows = TorchSession(model, spec, 1), rows_of(spec, 70)

    class Worse:
        signature = session.signature

        def __call__(self, batch):
            return {name: value + 100 for name, value in session(batch).items()}

        def close(self):
            pass

    for before, after, passed in ((Worse(), session, True), (session, Worse(), False)):
        hop = check_hop("hop", before, after, rows, spec, task, tolerance=None)

        assert passed == hop["passed"], hop["failures"]


@pytest.mark.parametrize(("shift", "passed"), [(0.05, True), (0.5, False)])
def test_a_toss_between_next_tokens_may_fall_otherwise(shift, passed):
    """A quantized language model may take a token that was as likely, but no less likely one."""
    task = TASKS["language-modeling"]
    model, spec = model_of("cnn", "language-modeling")
    session, rows = TorchSession(model, spec, 1), rows_of(spec, 70)

    class Tossed:
        """The two likeliest tokens lie the shift apart; `sign` says which is the likelier."""

        signature = session.signature

        def __init__(self, sign):
            self.sign = sign

        def __call__(self, batch):
            logits = np.zeros_like(session(batch)["logits"])
            logits[..., 2] = 5
            logits[..., 3] = 5 + self.sign * shift
            shifted = np.exp(logits - logits.max(-1, keepdims=True))
            probabilities = shifted / shifted.sum(-1, keepdims=True)
            return {"logits": logits, "probabilities": probabilities}

        def close(self):
            pass

    hop = check_hop("hop", Tossed(1), Tossed(-1), rows, spec, task, tolerance=None,
                    decision_tolerance=0.05, metric_tolerance=1.0)  # fmt: skip

    assert passed == hop["passed"], hop["failures"]
    assert 0 == hop["decisions_equal"]
    assert (hop["decisions_total"] if passed else 0) == hop["ties"]
