"""Modelwright: from a dataset and goals to a small, fast, proven model.

The verbs of the command line are functions here: `modelwright.run("recipe.yaml")`. They load
when first asked for, so that `modelwright --help` needs no torch.
"""

import os
from typing import Any

__version__ = "0.1.0"

VERBS = (
    "compress", "doctor", "evaluate", "export", "init", "plan", "predict", "recipe_schema",
    "report", "run", "serve", "train", "verify",
)  # fmt: skip

# Before torch is loaded: its waiting threads give way, or a second busy process on the machine
# slows training down many times over. A value that the user has set stays.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __getattr__(name: str) -> Any:
    if name in VERBS:
        from modelwright import verbs

        return getattr(verbs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
