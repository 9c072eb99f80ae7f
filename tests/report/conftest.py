"""A run folder as docs/reference/run-folder.md describes it, with made-up but plausible figures."""

import base64
import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelwright.core.run import Run

Files = dict[str, Any]
LABELS = [str(n) for n in range(10)]
RECIPE = """name: digits
task: image-classification
data: {source: digits}
budget: {train_minutes: 3}
goals:
  accuracy: ['>= 0.97', 'drop <= 0.5 pt']
  latency_p99_ms: '<= 0.1'
  size_mb: '<= 0.15'
"""


def png(side: int, seed: int) -> str:
    """A small grey picture as a data address."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        sum_ = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + sum_

    line = [bytes([0, *(((x - 3) ** 2 + (y - seed) ** 2) * 9 % 256 for x in range(side))])
            for y in range(side)]  # fmt: skip
    body = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"".join(line)))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(body).decode()


def candidate(
    name: str, params: int, epoch: float, status: str, reason: str, accuracy: list[float]
) -> dict[str, Any]:
    return {
        "name": name, "family": name.split("-")[0], "size": name.split("-")[1],
        "num_params": params, "forward_flops": params * 230, "backward_flops": params * 460,
        "predicted": {"memory_bytes": 1.1e8 + params * 400, "epoch_s": epoch,
                      "size_bytes": params * 4 + 9000, "latency_ms": params / 1.6e6},
        "status": status, "reason": reason,
        "rounds": [{"round": n + 1, "steps": 40 * 2**n, "seconds": 3.0 * 2**n,
                    "metric": "accuracy", "value": a}
                   for n, a in enumerate(accuracy)],
    }  # fmt: skip


def compressed(
    name: str, steps: list[Any], status: str, accuracy: float, p50: float, size: float, **more: Any
) -> dict[str, Any]:
    return {
        "name": name, "steps": steps, "status": status, "reason": more.pop("reason", ""),
        "folder": f"candidates/{name}", "num_params": 77850, "metric": "accuracy",
        "measured": {
            "accuracy": accuracy, "accuracy_low": accuracy - 0.014,
            "accuracy_high": min(accuracy + 0.009, 1), "accuracy_drop": 0.9857 - accuracy,
            "latency_p50_ms": p50, "latency_p95_ms": p50 * 1.05, "latency_p99_ms": p50 * 1.3,
            "size_mb": size,
        },
        "meets": {"accuracy": accuracy >= 0.97, "size_mb": size <= 0.15, **more},
    }  # fmt: skip


def confusion() -> list[list[int]]:
    matrix = [[39 if i == j else 0 for j in range(10)] for i in range(10)]
    for i, j, count in ((8, 1, 3), (3, 8, 1), (9, 3, 1), (4, 7, 1), (1, 8, 1)):
        matrix[i][j] += count
        matrix[i][i] -= count
    return matrix


def histogram() -> dict[str, list[float]]:
    edges = [0.036 + 0.002 * n for n in range(41)]
    counts = [round(620 * math.exp(-((n - 4) / 2.2) ** 2) + (3 if 9 < n < 30 else 0))
              for n in range(40)]  # fmt: skip
    return {"edges_ms": edges, "counts": counts}


def complete() -> Files:
    """Every file of a certified run."""
    steps = [
        {"step": n, "seconds": n * 0.19, "progress": n / 900, "examples_per_s": 6400 + n % 90,
         "loss": 0.52 + 1.9 * math.exp(-n / 90) + 0.09 * math.sin(n * 2.7) * math.cos(n * 0.31),
         "learning_rate": 2e-3 * min(n / 30, 1, (900 - n) / 300), "memory_bytes": 143_000_000}
        for n in range(1, 900, 2)
    ]  # fmt: skip
    evaluations = [
        {"step": n, "seconds": n * 0.19, "progress": n / 900,
         "valid_accuracy": 0.986 - 0.62 * math.exp(-n / 110),
         "valid_loss": 0.55 + 1.5 * math.exp(-n / 100)} for n in range(60, 901, 60)
    ]  # fmt: skip
    goal = {"bound": ">= 0.97", "measured": 0.9825, "low": 0.9642, "high": 0.9915, "met": True}
    labels = {"labels": LABELS, "task": "image-classification"}
    return {
        "recipe.yaml": RECIPE,
        "run.jsonl": ledger(),
        "data/data.json": {
            "source": "digits", "labels": LABELS, "digest": "ab" * 32,
            "inputs": {"kind": "image", "shape": [1, 8, 8], "mean": [77.8], "std": [95.9]},
            "outputs": {"kind": "classes", "num_classes": 10, "labels": LABELS},
            "files": [], "bytes": 89472,
            "rows": {"train": 1258, "valid": 140, "test": 399},
            "class_counts": {"train": [124, 127, 124, 128, 127, 127, 127, 125, 122, 127],
                             "valid": [14] * 10, "test": [40] * 9 + [39]},
            "findings": [
                {"check": "near_duplicates", "blocking": False, "waived": False, "count": 2,
                 "text": "2 pairs of images are nearly equal",
                 "rows": [["train 12", "test 3"], ["train 90", "valid 7"]]},
                {"check": "duplicates_across_splits", "blocking": True, "waived": True, "count": 1,
                 "text": "1 image stands in train and in test; its train row was dropped",
                 "rows": [["train 77", "test 41"]]}],
            "checked": ["broken_files", "empty_class", "label_out_of_range", "nan_values",
                        "near_duplicates", "duplicates_across_splits", "too_few_rows"],
            "seconds": 0.4},
        "plan/plan.json": {
            "winner": "cnn-small", "precision": "32-true",
            "precision_reason": "bf16-mixed is 0.6 times as fast on this processor",
            "race_seconds": 41.2,
            "candidates": [
                candidate("cnn-small", 77850, 1.9, "winner", "best on valid after every round",
                          [0.871, 0.95, 0.979]),
                candidate("cnn-tiny", 20106, 0.8, "raced", "1.4 points behind after round 3",
                          [0.829, 0.929, 0.964]),
                candidate("transformer-tiny", 54210, 2.2, "raced", "behind after round 2",
                          [0.514, 0.743]),
                candidate("rnn-tiny", 31690, 2.9, "raced", "last after round 1", [0.429]),
                candidate("cnn-large", 1231000, 31.0, "dropped",
                          "predicted size 4.93 MB, and int8 saves at most 4 times: over 0.15 MB",
                          [])]},
        "train/model/manifest.json": {**labels, "kind": "trained", "digest": "cd" * 32,
                                "model": {"family": "cnn", "num_params": 77850}},
        "train/metrics.jsonl": steps + evaluations,
        "compress/compress.json": {
            "chosen": "int8-entropy", "reason": "smallest that meets every goal",
            "candidates": [
                compressed("fp32", [], "pareto", 0.9857, 0.104, 0.318),
                compressed("int8-minmax", ["quantize (minmax)"], "dominated", 0.9714, 0.046, 0.101),
                compressed("int8-entropy", [{"quantize": {"calibration": "entropy"}}], "chosen",
                           0.9829, 0.0443, 0.1),
                compressed("prune25-int8", [{"prune": {"ratio": 0.25}}, "quantize"], "pareto",
                           0.9643, 0.034, 0.072, reason="accuracy under the goal"),
                compressed("prune25", ["prune"], "dominated", 0.975, 0.079, 0.213),
                {"name": "int8-percentile", "steps": ["quantize"], "status": "refused",
                 "reason": "one scale is zero", "measured": {}, "meets": {}}]},
        "export/parity.json": {"passed": True, "hops": [
            {"name": "trained → onnx", "rows": 1398, "edge_inputs": ["zeros", "full", "noise"],
             "max_error": 2e-6, "tolerance": 1e-4, "decisions_equal": 1398,
             "decisions_total": 1398, "metric": "accuracy", "metric_before": 0.9857,
             "metric_after": 0.9857,
             "passed": True, "first_differing_node": None},
            {"name": "onnx → onnxruntime, optimised", "rows": 1398, "edge_inputs": ["zeros"],
             "max_error": 4.1e-6, "tolerance": 1e-4, "decisions_equal": 1398,
             "decisions_total": 1398, "metric": "accuracy", "metric_before": 0.9857,
             "metric_after": 0.9857,
             "passed": True, "first_differing_node": None}]},
        "certify/certificate.json": {
            "verdict": "certified",
            "text": "All 4 goals hold on 399 rows that neither training nor any search saw.",
            "goals": {"accuracy": {**goal, "unit": "share"},
                      "accuracy_drop": {"bound": "<= 0.005", "measured": 0.0025, "low": -0.0049,
                                        "high": 0.0088, "met": True, "unit": "share"},
                      "latency_p99_ms": {"bound": "<= 0.1", "measured": 0.0582, "low": 0.0571,
                                         "high": 0.0603, "met": True, "unit": "ms"},
                      "size_mb": {"bound": "<= 0.15", "measured": 0.1, "met": True, "unit": "mb"}},
            "rows": 399, "metric": "accuracy", "accuracy": 0.9825, "accuracy_low": 0.9642,
            "accuracy_high": 0.9915, "parent_accuracy": 0.985,
            "latency": {"p50_ms": 0.0443, "p95_ms": 0.0489, "p99_ms": 0.0582, "calls": 2478,
                        "control_ratio": 1.01, "histogram": histogram()},
            "baseline": {"size_mb": 0.318, "latency_p50_ms": 0.104, "accuracy": 0.985},
            "size_mb": 0.1, "confusion": confusion(),
            "mistakes": [{"row": 17 + 31 * n, "truth": t, "answer": a, "probability": p,
                          "image": png(8, n)}
                         for n, (t, a, p) in enumerate([("8", "1", 0.91), ("3", "8", 0.88),
                         ("9", "3", 0.74), ("8", "1", 0.66), ("4", "7", 0.61), ("1", "8", 0.55),
                         ("8", "1", 0.47)])],
            "machine": {"cpu": "AMD EPYC 7B13", "cores": 2, "memory_gb": 8},
            "digests": {"data": "ab" * 32, "trained": "cd" * 32, "model": "ef" * 32}},
        "deploy/manifest.json": {**labels, "kind": "deploy", "digest": "12" * 32,
                                 "files": {"model.onnx": {"sha256": "ef" * 32}}},
        **{f"{folder}/done.json": {"finished": 1.0}
           for folder in ("data", "plan", "train", "compress", "export", "certify")},
    }  # fmt: skip


def older() -> Files:
    """The same run as the first version wrote it, which knew pictures alone."""
    files = complete()
    data = files["data/data.json"]
    data |= {name: data["inputs"][name] for name in ("shape", "mean", "std")}
    for name in ("inputs", "outputs", "files", "bytes"):
        del data[name]
    for one in files["plan/plan.json"]["candidates"]:
        for lap in one["rounds"]:
            del lap["metric"]
            lap["accuracy"] = lap.pop("value")
    for one in files["compress/compress.json"]["candidates"]:
        one.pop("metric", None)
    for hop in files["export/parity.json"]["hops"]:
        del hop["metric"]
    del files["certify/certificate.json"]["metric"]
    return files


def tagging() -> Files:
    """The same run of a tagger, whose F1 is what the accuracy was."""
    files = _renamed("f1", "tagging")
    tags = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    data, proof = files["data/data.json"], files["certify/certificate.json"]
    data |= {
        "labels": tags, "class_counts": {"train": [], "valid": [], "test": []},
        "inputs": {"kind": "text", "vocab_size": 21345, "features": 5, "length": 16,
                   "max_length": 256, "unit": "given"},
        "outputs": {"kind": "tags", "num_classes": 5, "labels": tags},
    }  # fmt: skip
    proof |= {"precision": 0.9801, "recall": 0.9849, "places_right": 0.9911}
    files["deploy/manifest.json"]["model"] = {"inputs": data["inputs"]}
    return files


def forecasting() -> Files:
    """The same run of a forecaster, whose squared error is what accuracy lacked to one."""
    files = _flipped(_renamed("mse", "forecasting"))
    recipe = files["recipe.yaml"].replace(">= 0.97", "<= 0.03").replace("0.5 pt", "0.005")
    files["recipe.yaml"] = recipe.replace("digits}", "digits, horizon: 24}")
    data, proof = files["data/data.json"], files["certify/certificate.json"]
    data |= {
        "labels": [], "class_counts": {"train": [], "valid": [], "test": []},
        "inputs": {"kind": "series", "length": 96, "patch": 16, "channels": ["HUFL", "OT"]},
        "outputs": {"kind": "horizon", "horizon": 24, "mean": [1.0, 2.0], "std": [1.0, 1.0]},
    }  # fmt: skip
    proof["mae"] = 0.101
    proof["goals"]["mse"] |= {"bound": "<= 0.03", "unit": ""}
    proof["goals"]["mse_drop"]["unit"] = ""
    for hop in files["export/parity.json"]["hops"]:
        hop |= {"decisions_equal": 0, "decisions_total": 0}
    files["deploy/manifest.json"]["model"] = {"inputs": data["inputs"]}
    return files


def matching() -> Files:
    """The same run of a model that matches pictures with texts."""
    files = _renamed("recall_at_10", "image-text-matching")
    data, proof = files["data/data.json"], files["certify/certificate.json"]
    data |= {
        "labels": [], "class_counts": {"train": [], "valid": [], "test": []},
        "inputs": {"kind": "image_text", "image": {"kind": "image", "shape": [3, 32, 32]},
                   "text": {"kind": "text"}, "vocab_size": 1428, "length": 16, "max_length": 256},
        "outputs": {"kind": "vectors", "dim": 128},
    }  # fmt: skip
    for depth in (1, 5, 10):
        proof |= {f"{way}_recall_at_{depth}": 0.07 * depth
                  for way in ("image_to_text", "text_to_image")}  # fmt: skip
    best = [{"row": 5, "text": "a dog <runs>", "score": 0.41, "right": False},
            {"row": 1, "text": "two girls swim", "score": 0.32, "right": True}]  # fmt: skip
    proof["ranked"] = [{"row": 0, "place": 2, "image": png(8, 1), "best": best}]
    files["deploy/manifest.json"]["model"] = {"inputs": data["inputs"]}
    return files


def translating() -> Files:
    """The same run of a translator: while it trained, what is likely was looked at, not BLEU."""
    files = _renamed("bleu", "translation")
    for one in files["plan/plan.json"]["candidates"]:
        for place, lap in enumerate(one["rounds"]):
            lap |= {"metric": "nats_per_token", "value": 4.0 - place}
    for line in files["train/metrics.jsonl"]:
        if "valid_bleu" in line:
            line["valid_nats_per_token"] = 1 + line.pop("valid_bleu")
    files["data/data.json"] |= {
        "labels": [], "class_counts": {"train": [], "valid": [], "test": []},
        "inputs": {"kind": "pairs", "pair": ["de", "en"], "vocab_size": 99, "max_length": 256},
        "outputs": {"kind": "sequence", "labels": ["", "?", "a"], "end": 98},
    }  # fmt: skip
    proof = files["certify/certificate.json"]
    proof |= {"nats_per_token": 1.25, "texts": [
        {"text": "ein Hund", "truth": "a dog", "answer": "a cat"}]}  # fmt: skip
    files["deploy/manifest.json"]["model"] = {"inputs": files["data/data.json"]["inputs"]}
    return files


def _renamed(metric: str, task: str) -> Files:
    text = json.dumps(complete()).replace("accuracy", metric)
    files: Files = json.loads(text.replace("image-classification", task))
    for name in ("confusion", "mistakes"):
        del files["certify/certificate.json"][name]
    return files


def _flipped(value: Any, key: str = "") -> Any:
    """With 1 - x for every x that is the metric, and the ends of its intervals changed over."""
    if isinstance(value, list):
        return [_flipped(one, key) for one in value]
    if isinstance(value, dict):
        found = {name: _flipped(one, name) for name, one in value.items()}
        for low, high in (("mse_low", "mse_high"), ("low", "high")):
            if low in found and (low == "mse_low" or value.get("measured") == 0.9825):
                found |= {low: 1 - value[high], high: 1 - value[low]}
        if value.get("measured") == 0.9825:
            found["measured"] = 1 - value["measured"]
        return found
    own = key in ("mse", "value", "valid_mse", "parent_mse", "metric_before", "metric_after")
    return 1 - value if own and isinstance(value, float) and value < 1 else value


def ledger() -> list[dict[str, Any]]:
    """The events of a certified run; times in seconds after ten o'clock."""
    lines: list[dict[str, Any]] = [event(0, "run", "started", recipe_digest="98" * 32)]
    clock = 0.1
    notes = {
        "plan": event(2, "plan", "decision", text="train in 32-true: bf16 is slower here"),
        "train": event(60, "train", "fallback", text="no compiler found: trained without it"),
    }
    for stage, seconds in (("gate", 0.4), ("plan", 41.2), ("train", 171), ("compress", 38),
                           ("export", 6), ("certify", 9)):  # fmt: skip
        lines.append(event(clock, stage, "stage_started"))
        lines += [notes[stage]] if stage in notes else []
        clock += seconds
        lines.append(event(clock, stage, "stage_finished", seconds=seconds))
        clock += 0.05
    for kind, value in (("predicted", 171.0), ("measured", 164.0)):
        number = {"value": value, "unit": "s", "kind": kind, "how": "wall clock", "machine": "m"}
        lines.append(event(clock, "train", "figure", subject="run", name="train_s", number=number))
    epoch = {"value": 2.033, "unit": "s", "kind": "measured", "how": "training loop"}
    lines.append(event(clock, "train", "figure", subject="cnn-small", name="epoch_s", number=epoch))
    return [*lines, event(clock, "run", "finished", verdict="certified")]


def event(clock: float, stage: str, event: str, **fields: Any) -> dict[str, Any]:
    minute, second = divmod(clock, 60)
    time = f"2026-03-01T10:{int(minute):02d}:{second:06.3f}+00:00"
    return {"time": time, "stage": stage, "event": event, **fields}


def infeasible() -> Files:
    """A run whose size goal cannot be met."""
    files = complete()
    proof = files["certify/certificate.json"]
    proof["verdict"] = "infeasible"
    proof["text"] = "No candidate is small enough: the smallest that was found has 0.072 MB."
    proof["goals"]["size_mb"] = {"bound": "<= 0.005", "measured": 0.1, "met": False, "unit": "mb"}
    proof["nearest_misses"] = [
        {"candidate": "prune25-int8", "missed": {
            "size_mb": {"bound": "<= 0.005", "measured": 0.072},
            "accuracy": {"bound": ">= 0.97", "measured": 0.9643}}},
        {"candidate": "int8-entropy", "missed": {
            "size_mb": {"bound": "<= 0.005", "measured": 0.1}}}]  # fmt: skip
    proof["binding_goal"] = "size_mb"
    proof["relax"] = "Allow 0.08 MB, and every other goal holds with the candidate prune25-int8."
    proof["relaxed"] = {"key": "goals.size_mb", "bounds": ["<= 0.08"]}
    for name in [name for name in files if name.startswith("deploy/")]:
        del files[name]
    return files


def write(folder: Path, files: Files) -> Run:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".jsonl"):
            path.write_text("".join(json.dumps(line) + "\n" for line in content))
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return Run(folder)


@pytest.fixture
def certified() -> Files:
    return complete()


@pytest.fixture(params=[tagging, forecasting], ids=["f1", "mse"])
def other_task(request: pytest.FixtureRequest) -> Files:
    return request.param()


@pytest.fixture
def impossible() -> Files:
    return infeasible()


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[Files], Run]:
    """Write files as a new run folder."""
    made: list[Run] = []

    def make(files: Files) -> Run:
        made.append(write(tmp_path / "runs" / f"digits-{len(made) + 1:03d}", files))
        return made[-1]

    return make
