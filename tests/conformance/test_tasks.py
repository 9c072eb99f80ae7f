"""Every task with every family, at the smallest size: what a row of TASKS or MODELS promises.

A new row of either is tested without a line here, but for its data (makers.py). What cannot be
done is an error with a type, listed in REFUSED and in docs/reference/tasks.md.
"""

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import torch
import yaml
from tests.conformance.conftest import Cell, Source
from tests.conformance.makers import MAKERS
from tests.serve.conftest import running

from modelwright import verbs
from modelwright.compress.calibrate import observe
from modelwright.compress.prune import prune
from modelwright.compress.quantize import quantize_graph, rounded_values
from modelwright.compress.search import MOST_FLIPPED
from modelwright.compress.weights import quantize_weights
from modelwright.core import recipe
from modelwright.core.artifact import open_artifact
from modelwright.core.errors import IntegrityError, ModelwrightError, Unsupported
from modelwright.core.goals import METRICS
from modelwright.core.recipe_tasks import NO_LONGEST
from modelwright.data.kinds import KINDS
from modelwright.data.loader import Loader
from modelwright.export.parity import check_hop
from modelwright.measure import quality
from modelwright.models.catalog import MODELS, WithAnswers, build, count_params, examples
from modelwright.runtime.catalog import open_session
from modelwright.runtime.onnx_session import OnnxSession
from modelwright.runtime.torch_session import TorchSession
from modelwright.serve.answers import MEDIA
from modelwright.serve.openinference import DATATYPES
from modelwright.tasks.catalog import TASKS
from modelwright.train.settings import Budget

# task -> why its row of TASKS is not ready to be tested
SKIPPED: dict[str, str] = {}

# what cannot be done: (task, family, one of WAYS) -> the error that says so
WAYS = ("int8", "prune", "export", "serve")
REFUSED: dict[tuple[str, str, str], type[ModelwrightError]] = {
    (task, "rnn", "int8"): Unsupported for task in TASKS
}

# warnings that Python shows to nobody unless asked
HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
BY_HEART = 0.1  # at most that far from a model without fault, in the task's own metric
PAGE = Path(__file__).resolve().parents[2] / "docs/reference/tasks.md"


def _marks(task: str, group: str) -> list[pytest.MarkDecorator]:
    skipped = [pytest.mark.skip(SKIPPED[task])] if task in SKIPPED else []
    return [pytest.mark.xdist_group(group), *skipped]  # what a cell has made is used again


every_task = pytest.mark.parametrize(
    "task", [pytest.param(task, marks=_marks(task, f"run-{task}")) for task in TASKS]
)
every_cell = pytest.mark.parametrize(
    ("task", "family"),
    [
        pytest.param(task, family, marks=_marks(task, f"{task}-{family}"))
        for task in TASKS
        for family in MODELS
    ],
)


def test_every_task_has_data():
    """Each row of TASKS has one of MAKERS, or a reason why it is skipped; and no row is left."""
    missing = set(TASKS) - set(MAKERS) - set(SKIPPED)

    assert set() == missing, f"add rows for {missing} to MAKERS in tests/conformance/makers.py"
    assert set(TASKS) == set(MAKERS)
    assert set(SKIPPED) <= set(TASKS)


def test_what_is_refused_is_documented():
    """The table in docs/reference/tasks.md has a row for each cell, and says what REFUSED says."""
    shown = {
        (found[1], found[2]): [one.strip() for one in found[3].split("|")]
        for found in re.finditer(r"^\| `([\w-]+)` \| `(\w+)` \| (.*) \|$", PAGE.read_text(), re.M)
    }
    wanted = {
        (task, family): [
            f"`{REFUSED[task, family, way].__name__}`" if (task, family, way) in REFUSED else "yes"
            for way in WAYS
        ]
        for task in TASKS
        for family in MODELS
    }

    assert wanted == shown


@every_task
def test_the_page_tells_of_every_task(task):
    """docs/reference/tasks.md has a heading for each task, with its metric and an example."""
    text = PAGE.read_text().partition(f"\n## {task}\n")[2].partition("\n## ")[0]

    assert f"`{TASKS[task].metric}`" in text
    assert "```" in text


@every_cell
def test_outputs_are_those_of_the_signature(cell: Cell, model):
    """Rows of the source give the signature's tensors, and the model's answers do."""
    rows = cell.source.rows
    batch = rows.batch(np.arange(3))
    with torch.inference_mode():
        outputs = WithAnswers(model, cell.spec.outputs)(*map(torch.from_numpy, batch.values()))
    signature = cell.spec.signature
    free = {
        size: length
        for one in signature.inputs
        for size, length in zip(one.shape, batch[one.name].shape, strict=True)
    }
    for found, wanted in (
        (dict(batch), signature.inputs),
        ({w.name: f.numpy() for w, f in zip(signature.outputs, outputs, strict=True)},
         signature.outputs),
    ):  # fmt: skip
        assert [one.name for one in wanted] == list(found)
        for one in wanted:
            value = found[one.name]

            assert one.dtype == value.dtype.name
            shape = [free[size] if size in free else one.places(free.get(one.follows))
                     if isinstance(size, str) else size for size in one.shape]  # fmt: skip

            assert tuple(shape) == value.shape


@every_cell
def test_padding_changes_nothing(cell: Cell):
    """Where rows differ in length, each is answered alone as beside others."""
    rows = cell.source.rows
    if not cell.spec.has_time:
        assert rows.lengths is None
        return
    order = np.argsort(rows.lengths, kind="stable")
    few = order[np.linspace(0, len(order) - 1, 6).astype(np.int64)]
    assert len(set(rows.lengths[few])) > 1
    session = TorchSession(cell.model, cell.spec, 1)
    together = session(rows.batch(few))
    places = rows.places(cell.spec.signature)
    for place, row in enumerate(few):
        alone = session(rows.batch(np.array([row])))
        end = None if places is None else places[row]
        for name, value in together.items():
            scale = np.abs(value[place][:end]).max()

            assert np.abs(alone[name][0][:end] - value[place][:end]).max() <= 1e-4 * scale


@every_cell
def test_eight_rows_are_learned_by_heart(cell: Cell):
    """Without regularisation a tiny model can repeat eight rows, or its training has a fault."""
    if cell.task.acting:
        pytest.skip(
            "what is learned by acting has no rows to repeat; tests/train/test_reinforce.py"
        )
    trainer, losses = cell.taught
    found = trainer.evaluate().value

    assert METRICS[cell.task.metric].error(found) <= BY_HEART * METRICS[cell.task.metric].scale
    assert losses[-1] < 0.2 * losses[0]


@every_cell
def test_a_stopped_training_goes_on_bitwise(cell: Cell):
    """A training that was stopped in its second epoch goes on with the very losses of one that was
    not, with dropout, averaged weights and batches of rows of like length."""
    parts, spec = cell.source.data.parts, dataclasses.replace(cell.spec, size="small")
    asked = recipe.Train(batch_size=32), Budget(steps=20)

    def trainer(name: str):
        return cell.trainer(*asked, name, parts["train"], parts["valid"], spec)

    whole, first = trainer("whole"), trainer("stopped")
    stop = whole.steps_per_epoch + 1
    undisturbed = [whole.train_step() for _ in range(stop + 3)]
    losses = [first.train_step() for _ in range(stop)]
    first.save()
    torch.rand(5)  # whatever else the process draws
    second = trainer("stopped")
    losses += [second.train_step() for _ in range(3)]

    assert second.resumed
    assert undisturbed == losses
    for name, value in whole.averaged.state_dict().items():
        assert torch.equal(value, second.averaged.state_dict()[name]), name


@every_cell
def test_a_model_makes_its_tensors_where_its_inputs_are(cell: Cell):
    """Model, answers and loss on a device that has shapes only: a tensor made on the CPU by itself
    would not go together with the others, nor would it on a GPU."""
    there = torch.device("meta")
    model = build(cell.spec).to(there)
    if cell.task.acting:
        inputs = [one.to(there) for one in examples(cell.spec, 2).values()]
        assert there == model(*inputs).device
        return
    rate = cell.spec.inputs.get("rate")
    rows = cell.source.data.parts["train"]
    batch = Loader(rows, batch_size=4, seed=0, rate=rate).batch(0).to(there)
    found = WithAnswers(model, cell.spec.outputs)(*batch.inputs.values())
    try:
        found += (cell.task.logic.loss(model(*batch.inputs.values()), batch.targets),)
    except NotImplementedError as error:  # sizes that follow from values, or only real kernels
        assert re.search("nonzero|_ctc_loss", str(error))

    assert {there} == {one.device for one in found}


@every_cell
def test_the_graph_is_the_model(cell: Cell):
    """The exported graph passes the hop that every run has to pass."""
    hop = check_hop(
        "trained → onnx", open_session(cell.trained), open_session(cell.exported),
        cell.source.rows, cell.spec, cell.task,
    )  # fmt: skip

    assert [] == hop["failures"]
    assert cell.spec.signature == cell.exported.signature


@every_cell
def test_int8_is_the_same_model_or_refused(cell: Cell, task, family, tmp_path):
    """Static int8 changes no more than a run allows; a family that can't have it says so."""
    graph = onnx.load(cell.exported.file("model.onnx"))
    refused = REFUSED.get((task, family, "int8"))
    if refused is not None:
        with pytest.raises(refused):
            rounded_values(graph)
        return
    histograms = observe(graph, cell.source.data.parts["train"], rounded_values(graph))
    changed = quantize_graph(graph, histograms, "minmax", tmp_path / "model.onnx")
    hop = check_hop(
        "onnx → int8", open_session(cell.exported),
        OnnxSession(tmp_path / "model.onnx", cell.spec.signature, 1),
        cell.taught[0].valid, cell.spec, cell.task, tolerance=None,
        decision_tolerance=MOST_FLIPPED, metric_tolerance=MOST_FLIPPED,
    )  # fmt: skip

    assert changed > 0
    assert [] == hop["failures"]


@every_cell
def test_int8_of_weights_alone_is_the_same_model(cell: Cell, task, family, tmp_path):
    """Where static int8 is refused, weights alone in int8 change no more than a run allows."""
    if (task, family, "int8") not in REFUSED:
        return  # whatever has static int8 has this too: tests/compress/test_weights.py
    graph = onnx.load(cell.exported.file("model.onnx"))
    changed = quantize_weights(graph, tmp_path / "model.onnx")
    hop = check_hop(
        "onnx → int8", open_session(cell.exported),
        OnnxSession(tmp_path / "model.onnx", cell.spec.signature, 1),
        cell.taught[0].valid, cell.spec, cell.task, tolerance=None,
        decision_tolerance=MOST_FLIPPED, metric_tolerance=MOST_FLIPPED,
    )  # fmt: skip

    assert changed > 0
    assert [] == hop["failures"]


@every_cell
def test_pruning_shrinks(cell: Cell, model):
    """Half of the channels gone leaves fewer values, and a model that takes and gives the same."""
    smaller, spec = prune(model, cell.spec, 0.5)
    batch = cell.source.rows.batch(np.arange(3))
    before, after = (TorchSession(*one, 1)(batch) for one in ((model, cell.spec), (smaller, spec)))

    assert count_params(smaller) < count_params(model)
    assert cell.spec.signature.inputs == spec.signature.inputs
    assert cell.spec.signature.outputs == spec.signature.outputs
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    assert all(np.isfinite(value).all() for value in after.values())


@every_cell
def test_an_artifact_comes_back_whole(cell: Cell):
    """What was written is opened as the same model, and what travels with it is there."""
    opened = open_artifact(cell.trained.folder, kinds=("trained",))
    batch = cell.source.rows.batch(np.arange(5))
    before = TorchSession(cell.model, cell.spec, 1)(batch)
    after = open_session(opened)(batch)

    assert cell.source.data.files == opened.extras
    assert list(before) == list(after)
    for name, value in before.items():
        np.testing.assert_allclose(value, after[name], rtol=1e-5, atol=1e-5)


@every_cell
def test_a_changed_byte_is_refused(cell: Cell, tmp_path):
    """One bit in any file of the folder, be it weights, vocabulary or manifest, is found."""
    names = sorted(path.name for path in cell.trained.folder.iterdir())
    assert {*cell.source.data.files, "manifest.json", "model.safetensors"} == set(names)
    for name in names:
        folder = tmp_path / name
        shutil.copytree(cell.trained.folder, folder)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(IntegrityError, match=re.escape(name)):
            open_artifact(folder)


@every_cell
def test_the_server_answers_as_predict(cell: Cell):
    """The page and the protocol's address give what the command gives for the same input."""
    source, folder = cell.source, cell.exported.folder
    (said,) = verbs.predict(folder, [str(source.question)], **source.maker.predict)["answers"]
    with running(folder) as server, httpx.Client(base_url=server.url) as client:
        name = client.get("/page/model.json").json()["name"]
        how = {key: one for key, one in source.maker.predict.items() if key in cell.task.options}
        page = client.post(
            "/page/answer", content=source.asked, params=how,
            headers={"Content-Type": MEDIA[cell.spec.inputs["kind"]].types[0] + "/given"},
        )  # fmt: skip
        answers = server.served.answers
        assert answers is not None and 200 == page.status_code, page.text
        inputs, tokens = answers.read(source.asked)
        tensors = [
            {"name": one.name, "shape": list(inputs[one.name].shape),
             "datatype": DATATYPES[one.dtype], "data": inputs[one.name].ravel().tolist()}
            for one in cell.spec.signature.inputs
        ]  # fmt: skip
        reply = client.post(f"/v2/models/{name}/infer", json={"inputs": tensors})
        assert 200 == reply.status_code, reply.text
    outputs = {
        one["name"]: np.array(one["data"], np.float32).reshape(one["shape"])
        for one in reply.json()["outputs"]
    }
    shown = page.json()
    inferred = {} if answers.writes else answers.answer(inputs, outputs, tokens)

    assert {key: shown[key] for key in inferred} == inferred
    assert "answer" in said and said["answer"] == shown["answer"]
    assert {key: said[key] for key in said.keys() & shown.keys()} == {
        key: shown[key] for key in said.keys() & shown.keys()
    }


def whole_run(source: Source, task: str, folder: Path, family: str, **model: str) -> dict[str, Any]:
    """What a whole run of a tiny model came to, with goals that are easily reached."""
    metric = METRICS[TASKS[task].metric]
    methods = ["quantize"] if (task, family, "int8") not in REFUSED else ["quantize_weights"]
    # of errors of which a row can have more than one, as many as rows are
    bound = metric.at_error(
        0.5 * metric.scale if metric.higher_is_better else 1.0 if metric.unit == "share" else 2.0
    )
    path = folder / "whole.yaml"
    path.write_text(yaml.safe_dump({
        "task": task,
        "data": {"source": str(source.source), **source.maker.data},
        "budget": {"train_steps": source.maker.steps},
        "goals": {metric.name: f"{metric.op} {bound}", "size_mb": "<= 1"},
        "model": {"family": family, "size": "tiny", **model},
        "train": {"batch_size": 16, "precision": "32-true", "learning_rate": 0.01},
        "compress": [
            {"quantize": {"calibration": "minmax"}} if one == "quantize" else one
            for one in methods
        ],
    }))  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "RESAMPLES", 100)  # tests/measure has intervals as they are
        return verbs.run(path, out=folder / "runs")


FAMILY_OF = {task: list(MODELS)[place % len(MODELS)] for place, task in enumerate(TASKS)}


# by --all alone: those that tests/story walks, and those like another that is walked here
WALKED = (
    "image-classification", "language-modeling", "control",
    "text-classification", "audio-classification", "rating-prediction", "image-text-matching",
)  # fmt: skip


@pytest.mark.parametrize("task", [
    pytest.param(task, marks=_marks(task, f"run-{task}") + [pytest.mark.slow] * (task in WALKED))
    for task in TASKS
])  # fmt: skip
def test_a_whole_run_ends_certified(source_of, task, tmp_path, recwarn):
    """From files to a deploy folder that answers, each task with one of the families in turn; no
    library says a word to the person on the way."""
    source: Source = source_of(task)
    result = whole_run(source, task, tmp_path, FAMILY_OF[task])
    found = verbs.predict(result["run"], [str(source.question)], **source.maker.predict)

    assert "certified" == result["verdict"]
    shown = [one for one in recwarn if not issubclass(one.category, HIDDEN)]
    assert [] == [f"{one.filename}:{one.lineno} {one.message}" for one in shown]
    done = open_artifact(Path(result["artifact"])).manifest["preprocess"]

    assert [] == found["failed"]
    assert "answer" in found["answers"][0]
    # predict reads files of texts as these were read
    kind = KINDS[TASKS[task].inputs]
    assert bool(kind.column) == ({"columns", "whole_files"} <= done.keys())
    if kind.questions is not None:  # and a table of users and items as the table of the training
        found = verbs.predict(result["run"], [str(source.source)])
        users = {line.partition(",")[0] for line in source.source.read_text().splitlines()[1:]}

        assert [] == found["failed"]
        assert {f"user {user}" for user in users} == {one["file"] for one in found["answers"]}


@pytest.mark.slow
@every_task
def test_other_positions_go_the_whole_road(source_of, task, tmp_path):
    """Learned positions, or fixed ones where rows have no bound: trained, compressed, exported,
    proven the same and certified, whatever the task."""
    source: Source = source_of(task)
    positions = "sinusoidal" if task in NO_LONGEST else "learned"
    result = whole_run(source, task, tmp_path, "transformer", positions=positions)
    found = verbs.predict(result["run"], [str(source.question)], **source.maker.predict)

    assert "certified" == result["verdict"]
    assert [] == found["failed"] and "answer" in found["answers"][0]
    args = open_artifact(Path(result["artifact"])).manifest["model"]["args"]
    towers = [args.get(name, args) for name in ("image", "text")]
    assert [positions] * 2 == [one["positions"] for one in towers]
