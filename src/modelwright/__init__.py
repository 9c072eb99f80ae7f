"""Modelwright: from a dataset and goals to a small, fast, proven model.

The verbs of the command line are functions here: `modelwright.run("recipe.yaml")`. They load
when first asked for, so that `modelwright --help` needs no torch.
"""

import os
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

VERBS = (
    "compress", "doctor", "evaluate", "export", "init", "plan", "predict", "recipe_schema",
    "report", "run", "serve", "train", "verify",
)  # fmt: skip

# Before torch is loaded: its waiting threads give way soon, or a second busy process on the machine
# slows training down many times over; but not at once, or each small operation waits for one to
# wake (docs/experiments.md). A value that the user has set stays.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def __getattr__(name: str) -> Any:
    if name in VERBS:
        from modelwright import verbs

        return getattr(verbs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Package(ModuleType):
    """Keeps `modelwright.train` the verb: importing a folder would put the folder in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in VERBS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
