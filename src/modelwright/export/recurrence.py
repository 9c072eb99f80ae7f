"""The operators of recurrent nets (models/rnn.py) as nodes of ONNX, for the exporter."""

from collections.abc import Sequence
from typing import Any

from onnxscript import opset20 as op


def recurrent_node(sequence: Any, weights: Sequence[Any], cell: str) -> Any:
    """One layer in one direction, from a zero state."""
    return _recurrence(sequence, weights, cell, [])[0]


def carrying_node(sequence: Any, past: Any, weights: Sequence[Any], cell: str) -> Any:
    """The same from a given state, which is given on."""
    if cell == "lstm":
        states = list(op.Split(past, axis=1, num_outputs=2))
    else:
        states = [past]
    first = op.Constant(value_ints=[0])
    states = [op.Unsqueeze(one, first) for one in states]
    found, *last = _recurrence(sequence, weights, cell, states)
    if cell == "lstm":
        return found, op.Concat(*(op.Squeeze(one, first) for one in last), axis=1)
    return found, op.Squeeze(last[0], first)


def _recurrence(sequence: Any, weights: Sequence[Any], cell: str, states: list[Any]) -> list[Any]:
    """One layer in one direction as ONNX has it: time first, gates in another order.

    Source: ONNX operators, LSTM (gates input, output, forget, cell) and GRU (update, reset, new).
    """
    order = (0, 3, 1, 2) if cell == "lstm" else (1, 0, 2)

    def gates(value: Any, axis: int = 0) -> list[Any]:
        parts = op.Split(value, axis=axis, num_outputs=len(order))
        return [parts[index] for index in order]

    inputs, state, first, second = (
        op.Unsqueeze(op.Concat(*gates(value), axis=0), op.Constant(value_ints=[0]))
        for value in weights
    )
    biases = op.Concat(first, second, axis=1)
    over_time = op.Transpose(sequence, perm=[1, 0, 2])
    size = weights[1].shape[1]
    given = (over_time, inputs, state, biases, *([None, *states] if states else []))
    if cell == "lstm":
        found, *last = op.LSTM(*given, hidden_size=size)
    else:
        found, *last = op.GRU(*given, hidden_size=size, linear_before_reset=1)
    out = op.Transpose(op.Squeeze(found, op.Constant(value_ints=[1])), perm=[1, 0, 2])
    return [out, *last]
