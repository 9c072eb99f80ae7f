"""The same training in every layout: losses and gradients beside those of one process alone.

Tiny models in float32 on gloo processes, 20 steps of AdamW on the sets that the tests make.

    python benchmarks/layouts.py [--json] [--quick]
"""

import json
import sys
import tempfile
from pathlib import Path

from bench import Row, arguments, finish

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' small data

from tests.conformance.makers import MAKERS

from modelwright import stages
from modelwright.core import recipe_file
from modelwright.models.catalog import ModelSpec
from modelwright.train.equivalence import LAYOUTS, TOLERANCE, compare

CASES = {
    "cnn, pictures": ("image-classification", "cnn"),
    "cnn, tags": ("tagging", "cnn"),
    "rnn, forecast": ("forecasting", "rnn"),
    "rnn, encoder–decoder": ("translation", "rnn"),
    "transformer, encoder": ("text-classification", "transformer"),
    "transformer, decoder": ("language-modeling", "transformer"),
    "transformer, encoder–decoder": ("translation", "transformer"),
}


def measure(name: str, task: str, family: str) -> list[Row]:
    maker = MAKERS[task]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source, _ = maker.write(folder)
        path = folder / "recipe.yaml"
        path.write_text(json.dumps({"task": task, "data": {"source": str(source), **maker.data}}))
        recipe = recipe_file.read(path, {"train.optimizer": "adamw"})
        data = stages.load(recipe)
        spec = ModelSpec(family, "tiny", data.inputs, data.outputs)
        rows = []
        for one in compare(recipe, data, spec, LAYOUTS):
            label = f"{name}: {one.name}, {one.processes} processes"
            if one.loss is None:
                rows.append(Row(label, f"refused: {one.refused}"))
            else:
                for what, value in (("loss", one.loss), ("gradient", one.gradient or 0.0)):
                    met = value <= TOLERANCE
                    rows.append(Row(f"{label}: {what}", f"{value:.1e}", f"<= {TOLERANCE:.0e}", met))
    return rows


def main() -> None:
    asked = arguments(__doc__).parse_args()
    names = ["transformer, decoder"] if asked.quick else list(CASES)
    rows: list[Row] = []
    for name in names:
        rows += measure(name, *CASES[name])
    finish(rows, as_json=asked.json)


if __name__ == "__main__":
    main()
