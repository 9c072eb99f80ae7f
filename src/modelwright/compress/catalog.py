"""METHODS: how a trained model is made smaller. To add one: a file, a row, a call in search.py.

A recipe's list is done in the order of the numbers: first what changes the PyTorch model (it is
trained again and exported), then what changes the exported graph.
"""

MODEL, GRAPH, REST = 1, 2, 3  # the last takes what the others left in float32

METHODS: dict[str, int] = {
    "prune": MODEL,
    "quantize": GRAPH,
    "quantize_weights": REST,
}
