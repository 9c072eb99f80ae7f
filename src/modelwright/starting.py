"""The starter recipe for a dataset that nobody has described yet."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelwright.core import recipe_file
from modelwright.core.errors import ConfigError
from modelwright.core.files import reading, write_bytes
from modelwright.core.recipe import Data
from modelwright.core.starter import GOALS, OWN_KEYS, STARTER, WEIGHTS
from modelwright.data import catalog as data_catalog
from modelwright.data import checks
from modelwright.data.kinds import KINDS
from modelwright.tasks.catalog import TASKS


def init(source: str, to: str | Path | None = None) -> dict[str, Any]:
    """Look at a dataset and write a commented starter recipe for it.

    Raises: ConfigError if the file is there already.
    """
    stem = "".join(c if c.isalnum() else "-" for c in Path(source).name).strip("-") or "recipe"
    path = Path(to) if to is not None else Path(f"{stem.lower()}.yaml")
    try:
        f"{source}{path}".encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{source!r}: this name cannot stand in a recipe",
            expected="a name in UTF-8",
            repair="rename it",
        ) from error
    with reading(path):
        there = path.exists()
    if there:
        raise ConfigError(
            f"{path} is there already", expected="a new file", repair="name another with --to"
        )
    section = Data(source=source)
    found = data_catalog.recognise(section)
    task = next(
        name for name, one in TASKS.items()
        if one.inputs == found.kind and one.outputs in found.answers
    )  # fmt: skip
    keys = {
        key: value for key, value in KINDS[found.kind].starter(Path(source)).items()
        if not isinstance(value, dict) or all(f"{key}.{one}" in found.reads for one in value)
    }  # fmt: skip
    section = Data(source=source, **keys)
    data, report = checks.check(
        data_catalog.load(section, found.kind, TASKS[task].outputs), section
    )
    shape, rows = report["inputs"].get("shape"), report["rows"]
    uneven = any(one["check"] == "class_imbalance" for one in report["findings"])
    text = STARTER.format(
        source=source,
        quoted=json.dumps(source, ensure_ascii=False),
        task=task,
        own="".join(f"  {key}: {json.dumps(value):<19} # edit\n" for key, value in keys.items())
        + ("" if "window" in keys else OWN_KEYS.get(found.kind, "")),
        rows=sum(rows.values()),
        what=_described(report),
        goal=GOALS["f1_macro" if uneven else TASKS[task].metric],
        weights=WEIGHTS if uneven else "",
        minutes=1 if rows["train"] < 5000 else 5,
        file=path,
    )
    write_bytes(path, text.encode())
    recipe_file.read(path)
    labels = [] if data.kind in ("items", "ratings") else data.labels
    return {"recipe": str(path), "rows": rows, "labels": labels, "shape": shape,
            "findings": report["findings"]}  # fmt: skip


def _described(report: Mapping[str, Any]) -> str:
    """What the rows are, in a few words."""
    inputs, labels = report["inputs"], report["labels"]
    if inputs["kind"] == "image":
        shape = " x ".join(str(size) for size in inputs["shape"])
        what = f"images of {shape} (channels x height x width)"
    else:
        kinds = {
            "text": "texts", "audio": "recordings", "series": "windows",
            "stream": "stretches of text", "items": "histories", "pairs": "pairs of texts",
            "ratings": "histories", "observation": "observations and episodes",
            "image_text": "pictures with texts",
        }  # fmt: skip
        what = kinds.get(inputs["kind"], "rows")
    if inputs["kind"] in ("items", "ratings"):
        return f"{what} of {len(labels):,} items"
    return what + (f" in {len(labels)} classes" if labels else "")
