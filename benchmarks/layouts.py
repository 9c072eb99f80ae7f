"""The same training in every layout: losses and gradients beside those of one process alone.

Tiny models in float32 on gloo processes, 20 steps of AdamW on the sets that the tests make. What
is refused is held to what is known to be: a layout that is refused without a reason known here, or
taken where it should be refused, is not met.

    python benchmarks/layouts.py [--json] [--quick]
"""

import json
import sys
import tempfile
from pathlib import Path

from bench import Row, arguments, exactly, finish

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' small data

from tests.conformance.makers import MAKERS

from modelwright import stages
from modelwright.core import recipe_file
from modelwright.models.catalog import ModelSpec
from modelwright.train.equivalence import LAYOUTS, TOLERANCE, compare

# tensor and pipeline cut transformer blocks, context what lies between them; their products are
# not tried where one of them is refused
BLOCKS = ("tensor 2", "pipeline 2", "context 2")
CASES: dict[str, tuple[str, str, tuple[str, ...]]] = {  # a task, a family, what it refuses
    # batch norms see each pass alone, so one of pictures takes no smaller passes
    "cnn, pictures": ("image-classification", "cnn", ("accumulation", *BLOCKS)),
    "cnn, tags": ("tagging", "cnn", BLOCKS),
    "rnn, forecast": ("forecasting", "rnn", BLOCKS),
    "rnn, encoder–decoder": ("translation", "rnn", BLOCKS),
    "transformer, encoder": ("text-classification", "transformer", ()),
    "transformer, decoder": ("language-modeling", "transformer", ()),
    "transformer, encoder–decoder": ("translation", "transformer", ()),
}


def measure(name: str, task: str, family: str, refusals: tuple[str, ...]) -> list[Row]:
    maker = MAKERS[task]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source, _ = maker.write(folder)
        path = folder / "recipe.yaml"
        path.write_text(json.dumps({"task": task, "data": {"source": str(source), **maker.data}}))
        recipe = recipe_file.read(path, {"train.optimizer": "adamw"})
        data = stages.load(recipe)
        spec = ModelSpec(family, "tiny", data.inputs, data.outputs)
        rows, refused = [], []
        for one in compare(recipe, data, spec, LAYOUTS):
            label = f"{name}: {one.name}, {one.processes} processes"
            if one.loss is None:
                refused.append(one.name)
                rows.append(Row(label, f"refused: {one.refused}"))
            else:
                for what, value in (("loss", one.loss), ("gradient", one.gradient or 0.0)):
                    met = value <= TOLERANCE
                    rows.append(Row(f"{label}: {what}", f"{value:.1e}", f"<= {TOLERANCE:.0e}", met))
    told, known = (", ".join(names) or "none" for names in (refused, refusals))
    return [*rows, exactly(f"{name}: layouts refused", told, known)]


def main() -> None:
    asked = arguments(__doc__).parse_args()
    names = ["transformer, decoder"] if asked.quick else list(CASES)
    rows: list[Row] = []
    for name in names:
        rows += measure(name, *CASES[name])
    finish(rows, as_json=asked.json)


if __name__ == "__main__":
    main()
