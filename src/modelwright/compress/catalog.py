"""METHODS: how a trained model is made smaller. To add one: write a file, add a row.

A "model" method changes the PyTorch model before export; a "graph" method changes the exported
graph. A recipe's list is done in that order: all model methods, then the graph method.
"""

from typing import Literal

METHODS: dict[str, Literal["model", "graph"]] = {
    "prune": "model",
    "quantize": "graph",
}
