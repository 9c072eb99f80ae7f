"""Planted faults: each is refused with the exit code and the words that its kind promises."""

import contextlib
import errno
import fcntl
import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from modelwright import pipeline
from modelwright.core.errors import IntegrityError, StorageError
from modelwright.core.files import sha256
from modelwright.data.image import encode_png

from .conftest import copy_of, flip, restate, tamper, undo

pytestmark = pytest.mark.xdist_group("story")


def relu_to_sigmoid(graph):
    [node for node in graph.node if node.op_type == "Relu"][1].op_type = "Sigmoid"


def scale_weights(factor):
    def change(graph):
        conv = [node for node in graph.node if node.op_type == "Conv"][2]
        tensor = next(t for t in graph.initializer if t.name == conv.input[1])
        value = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))

    return change


def swap_classes(graph):
    for index, output in enumerate(graph.output):
        if output.name == "logits":
            node = next(n for n in graph.node if "logits" in n.output)
            node.output[list(node.output).index("logits")] = "logits_before"
            order = onnx.numpy_helper.from_array(np.array([1, 0, *range(2, 10)]), "order")
            graph.initializer.append(order)
            for other in graph.node:
                for place, name in enumerate(other.input):
                    if name == "logits":
                        other.input[place] = "logits_before"
            graph.node.append(
                onnx.helper.make_node("Gather", ["logits_before", "order"], ["logits"], axis=1)
            )
            assert index == 0


@pytest.mark.parametrize("change", [relu_to_sigmoid, scale_weights(1.02)])
def test_a_wrong_export_is_refused(run_copy, command, change):
    """A graph that is not the trained model, hashes and all in order, stops the export stage
    with exit 4 and the node where it begins; nothing is deployed."""
    tamper(run_copy / "compress/candidates/fp32", change)
    undo(run_copy, "export", "certify")
    said = command("export", run_copy)

    assert 4 == said.code
    assert "trained → onnx are not the same model" in said.err
    assert re.search(r"first value that differs: \S+ \((Sigmoid|Conv)\)", said.err)
    parity = json.loads((run_copy / "export/parity.json").read_bytes())
    assert not parity["passed"] and parity["hops"][0]["first_differing_node"]
    assert not (run_copy / "export/done.json").exists()


def test_a_wrong_export_fails_verify(run_copy, command):
    """verify finds the same fault in a run that was certified before."""
    tamper(run_copy / "compress/candidates/fp32", relu_to_sigmoid)
    said = command("verify", run_copy)

    assert 4 == said.code
    assert "(Sigmoid)" in said.err


def test_a_wrong_int8_model_is_refused(run_copy, command):
    """The chosen int8 graph with two classes exchanged stops the export stage."""
    table = json.loads((run_copy / "compress/compress.json").read_bytes())
    assert table["chosen"].startswith("int8")
    tamper(run_copy / "compress/candidates" / table["chosen"], swap_classes)
    undo(run_copy, "export", "certify")
    said = command("export", run_copy)

    assert 4 == said.code
    assert "onnx → int8 are not the same model" in said.err


def test_a_wrong_deployed_model_fails_verify(run_copy, command):
    """A deployed graph with two classes exchanged, its manifest rewritten, is refused."""
    tamper(run_copy / "deploy", swap_classes)
    said = command("verify", run_copy)

    assert 4 == said.code


@pytest.mark.parametrize(
    ("entry", "value"), [("decode", {"beams": 9}), ("labels", list("abcdefghij"))]
)
def test_another_manifest_fails_verify(run_copy, command, entry, value):
    """The right graph whose manifest was rewritten with another entry is refused."""
    restate(run_copy / "deploy", lambda manifest: manifest.update({entry: value}))
    said = command("verify", run_copy)

    assert 4 == said.code
    assert "does not say what was proven and certified" in said.err


@pytest.mark.parametrize("name", ["vocabulary.json", "samples.json"])
def test_another_file_beside_the_graph_fails_verify(run_copy, command, name):
    """The right graph whose vocabulary or samples were exchanged, hashes and all, is refused."""
    chosen = json.loads((run_copy / "compress/compress.json").read_bytes())["chosen"]
    proven = run_copy / "compress/candidates" / chosen
    if name == "vocabulary.json":  # as a model of texts has one
        for folder in (proven, run_copy / "deploy"):
            put(folder, name, b'["a", "b"]')
            restate(folder, lambda manifest: manifest["preprocess"].update(files=[name]))
        digest = json.loads((proven / "manifest.json").read_bytes())["digest"]
        restate(run_copy / "deploy", lambda manifest: manifest.update(parent=digest))
        (run_copy / "certify/done.json").write_text("{}")  # as older runs left it
    put(run_copy / "deploy", name, b'["b", "a"]')
    said = command("verify", run_copy)

    assert 4 == said.code
    assert "does not say what was proven and certified" in said.err


def put(folder, name, content):
    """A file of an artifact, its manifest rewritten."""
    (folder / name).write_bytes(content)
    entry = {"sha256": sha256(folder / name), "bytes": len(content)}
    restate(folder, lambda manifest: manifest["files"].update({name: entry}))


@pytest.mark.parametrize("factor", [1.02, 1.001])
def test_a_float_model_is_held_to_float_tolerance(plain, tmp_path, command, factor):
    """Where float32 ships, a deployed graph with slightly other weights, its manifest rewritten,
    is not passed off as rounding."""
    run = copy_of(plain, tmp_path)
    tamper(run / "deploy", scale_weights(factor))

    assert 4 == command("verify", run).code


def test_a_float_model_is_proven_in_one_hop(plain, command):
    """Without compression there is no int8 hop to prove, neither in export nor in verify."""
    parity = json.loads((plain.folder / "export/parity.json").read_bytes())
    said = command("verify", plain.folder, "--json")

    assert ["trained → onnx"] == [hop["name"] for hop in parity["hops"]]
    assert (0, ["trained → onnx"]) == (said.code, [hop["name"] for hop in said.json["hops"]])


def test_an_export_that_goes_wrong_is_caught_in_the_run(plain, tmp_path, command, monkeypatch):
    """An exporter that writes a Sigmoid for a Relu is stopped by the same run that calls it."""
    from modelwright.export import catalog

    export_onnx = catalog.FORMATS["onnx"]

    def faulty(model, path, spec):
        signature = export_onnx(model, path, spec)
        proto = onnx.load(path)
        relu_to_sigmoid(proto.graph)
        onnx.save(proto, path)
        return signature

    monkeypatch.setitem(catalog.FORMATS, "onnx", faulty)
    run = copy_of(plain, tmp_path)
    undo(run, "compress", "export", "certify")
    for name in ("deploy", "compress"):
        shutil.rmtree(run / name)
    said = command("run", run, "--json")

    assert (4, "refused") == (said.code, said.json["verdict"])
    assert "(Sigmoid)" in said.json["error"]
    assert not (run / "deploy").exists()


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "certificate.json"])
@pytest.mark.parametrize("verb", ["predict", "verify", "serve"])
def test_a_flipped_byte_is_refused(run_copy, tmp_path, command, verb, name):
    """One changed byte in deploy/ is found before anything is answered, and the file is named."""
    (tmp_path / "x.png").write_bytes(encode_png(np.zeros((1, 8, 8), np.uint8)))
    flip(run_copy / "deploy" / name)
    words = {
        "predict": ["predict", run_copy / "deploy", tmp_path / "x.png"],
        "verify": ["verify", run_copy],
        "serve": ["serve", run_copy / "deploy", "--port", "0"],
    }[verb]
    said = command(*words)

    assert 4 == said.code
    assert str(run_copy / "deploy" / name) in said.err


@pytest.mark.parametrize("below", ["", "deploy"])
@pytest.mark.parametrize("verb", ["evaluate", "predict", "serve", "verify"])
def test_an_unfinished_run_says_how_far_it_is(run_copy, tmp_path, command, verb, below):
    """What needs the finished model names the stages done and how to go on."""
    undo(run_copy, "export", "certify")
    shutil.rmtree(run_copy / "deploy")
    said = command(verb, run_copy / below, *([tmp_path / "x.png"] if verb == "predict" else []))

    assert 2 == said.code
    assert "the run is unfinished (done: gate, plan, train, compress; to do: export" in said.err
    assert f"modelwright run {run_copy}\n" in said.err


@pytest.mark.parametrize(
    ("verdict", "repair"), [("infeasible", "relax a goal"), ("certified", "--new\n")]
)
def test_a_finished_run_without_a_model_is_not_continued(run_copy, command, verdict, repair):
    """An infeasible run is told to relax a goal; one whose model was deleted, to start over."""
    shutil.rmtree(run_copy / "deploy")
    run = pipeline.run_of(run_copy)
    run.write("run", "finished", verdict=verdict)
    said = command("evaluate", run_copy)

    assert 2 == said.code
    assert f"the run is {verdict} (" in said.err and repair in said.err


def test_the_test_part_stays_closed_until_the_run_is_finished(run_copy, command):
    """Or one could choose by it before the certificate says that nobody did."""
    undo(run_copy, "certify")
    said = command("evaluate", run_copy / "train/model", "--part", "test")

    assert 2 == said.code
    assert f"modelwright run {run_copy}\n" in said.err
    assert 0 == command("evaluate", run_copy / "train/model").code


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_flipped_byte_in_the_rows_is_refused(finished, tmp_path, command, part):
    """Rows that are not those the gate saved are not trained, exported or judged on."""
    run = copy_of(finished, tmp_path)
    stages = ["compress", "export", "certify"] if part != "test" else ["certify"]
    undo(run, *stages)
    flip(run / f"data/{part}.safetensors", -1000)
    said = command("run", run)

    assert 4 == said.code
    assert f"{part}.safetensors" in said.err


def test_a_flipped_byte_in_the_trained_model_is_refused(run_copy, command):
    """compress does not start from weights that are not those that train wrote."""
    undo(run_copy, "compress", "export", "certify")
    flip(run_copy / "train/model/model.safetensors")
    said = command("run", run_copy)

    assert 4 == said.code
    assert "model.safetensors" in said.err


def npz(path, seed=0, **arrays):
    random = np.random.default_rng(seed)
    values = {
        "x_train": random.integers(0, 256, (60, 8, 8), np.uint8), "y_train": np.arange(60) % 3,
        "x_test": random.integers(0, 256, (30, 8, 8), np.uint8), "y_test": np.arange(30) % 3,
    }  # fmt: skip
    np.savez(path, **{**values, **arrays})
    return values


def train_on(command, recipe, source, out):
    return command("train", recipe, f"data.source={source}", "--out", out)


def test_a_leaked_test_image_is_refused(recipe, tmp_path, command, no_training):
    """A test image that also stands in train stops the run with exit 2 and both rows' names."""
    values = npz(tmp_path / "leak.npz")
    values["x_train"][7] = values["x_test"][11]
    values["y_train"][7] = values["y_test"][11]
    npz(tmp_path / "leak.npz", x_train=values["x_train"], y_train=values["y_train"])
    said = train_on(command, recipe, tmp_path / "leak.npz", tmp_path / "runs")
    (finding,) = [
        finding
        for finding in json.loads((tmp_path / "runs/easy-001/data/data.json").read_bytes())[
            "findings"
        ]
        if finding["check"] == "duplicates_across_splits"
    ]

    assert 2 == said.code
    assert 1 == finding["count"] and finding["blocking"]
    (names,) = finding["rows"]
    assert any(name.startswith("test 11") for name in names)
    assert "test 11" in said.err


def folder_of(root):
    random = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        (root / label).mkdir(parents=True)
        for number in range(20):
            image = random.integers(0, 256, (1, 8, 8), np.uint8)
            (root / label / f"{number:02}.png").write_bytes(encode_png(image))
    return root


def test_an_empty_class_is_refused(recipe, tmp_path, command, no_training):
    """A class folder without images stops the run and is named."""
    folder_of(tmp_path / "images")
    (tmp_path / "images/birds").mkdir()
    said = train_on(command, recipe, tmp_path / "images", tmp_path / "runs")

    assert 2 == said.code
    assert "birds" in said.err and "empty_class" in said.err


def test_a_broken_png_is_refused(recipe, tmp_path, command, no_training):
    """A cut file stops the run, is named, and can be waived by name."""
    folder_of(tmp_path / "images")
    path = tmp_path / "images/dogs/07.png"
    path.write_bytes(path.read_bytes()[:40])
    said = train_on(command, recipe, tmp_path / "images", tmp_path / "runs")

    assert 2 == said.code
    assert "dogs/07.png" in said.err and "broken_files" in said.err


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [("train.lerning_rate=0.1", "learning_rate"), ("goals.acuracy=>= 0.9", "accuracy"),
     ("modle=auto", "model")],
)  # fmt: skip
def test_a_typo_is_refused(recipe, tmp_path, command, override, suggestion):
    """An unknown key ends with exit 2 and the nearest name, and no run folder is made."""
    said = command("run", recipe, override, "--out", tmp_path / "runs")

    assert 2 == said.code
    assert f"did you mean '{suggestion}'" in said.err
    assert not (tmp_path / "runs").exists()


@contextlib.contextmanager
def file_limit(limit):
    """The system refuses to let any file grow beyond so many bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("limit", [0, 2_000, 30_000, 60_000])
def test_a_full_disk_is_a_storage_error(recipe, tmp_path, command, limit):
    """With files limited to so many bytes, whatever the stage that meets it: exit 2, a sentence,
    and with room again the same command comes to its end as if nothing had been."""
    words = ("train", recipe, "--out", tmp_path / "runs", "--json")
    with file_limit(limit):
        said = command(*words)
    again = command(*words)

    assert 2 == said.code
    assert "cannot write" in said.err and "repair:" in said.err
    assert (0, "unfinished") == (again.code, again.json["verdict"])
    assert (Path(again.json["run"]) / "train/model/manifest.json").is_file()


def test_a_full_disk_under_the_trained_model(plain, tmp_path, command, monkeypatch):
    """The library that writes the weights has errors of its own; they too are a full disk."""
    from modelwright import stages

    run = copy_of(plain, tmp_path)
    undo(run, "train", "compress", "export", "certify")
    write_trained = stages.write_trained

    def limited(*arguments):
        with file_limit(5_000):
            return write_trained(*arguments)

    monkeypatch.setattr(stages, "write_trained", limited)
    said = command("train", run)

    assert 2 == said.code
    assert "cannot write" in said.err


@pytest.mark.parametrize("stage", ["train", "compress", "certify"])
def test_a_disk_that_fills_while_an_artifact_is_filled(plain, tmp_path, monkeypatch, stage):
    """The refusal of any write into an artifact's folder is a StorageError, and no half folder
    is left."""
    from modelwright.core import artifact

    run = copy_of(plain, tmp_path)
    order = ["train", "compress", "export", "certify"]
    undo(run, *order[order.index(stage) :])
    write = artifact.write

    def full(*arguments, fill, **keys):
        def refuse(partial):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial / "model"))

        return write(*arguments, fill=refuse, **keys)

    for module in ("train.save", "export.catalog", "stages"):
        monkeypatch.setattr(importlib.import_module(f"modelwright.{module}"), "write", full)
    with pytest.raises(StorageError):
        pipeline.go(pipeline.run_of(run))

    assert [] == list(run.rglob(".*.partial"))


def test_one_process_works_in_a_run(run_copy, command):
    """While another process holds the run, the command is refused and changes nothing."""
    undo(run_copy, "certify")
    code = (
        "import fcntl, sys, time\n"
        "file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, run_copy / ".lock"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert "locked\n" == other.stdout.readline()
        said = command("run", run_copy)
    finally:
        other.kill()
        other.communicate()

    assert 2 == said.code
    assert "another process" in said.err and "--new" in said.err
    assert not (run_copy / "certify/done.json").exists()
    with open(run_copy / ".lock", "w") as file:  # the dead process holds it no longer
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_cut_ledger_line_is_dropped(run_copy, command, no_training):
    """A line that a crash cut short costs that line, not the run."""
    undo(run_copy, "certify")
    with open(run_copy / "run.jsonl", "ab") as file:
        file.write(b'{"time": "2026-')

    assert 0 == command("run", run_copy).code
    for line in (run_copy / "run.jsonl").read_text().splitlines():
        json.loads(line)


def test_overrides_on_a_run_are_refused(run_copy, command):
    """A run's recipe is fixed; an override that would have no effect is an error."""
    said = command("run", run_copy, "train.seed=3")

    assert 2 == said.code
    assert "overrides have no effect" in said.err


def test_not_a_run(tmp_path, command):
    """A folder that is no run is said to be none."""
    assert 2 == command("verify", tmp_path).code


def test_integrity_errors_name_the_repair(run_copy):
    """The words for a changed file say where to get it again."""
    from modelwright.core.artifact import open_artifact

    flip(run_copy / "deploy/model.onnx")
    with pytest.raises(IntegrityError) as caught:
        open_artifact(run_copy / "deploy")

    assert "model.onnx" in caught.value.what and caught.value.repair
