"""Episodes played by a model, greedily: the action of the largest score at every step.

The same for every runtime. Episodes run side by side, one call of the model for a step of all.
"""

import numpy as np

from modelwright.core.errors import IntegrityError
from modelwright.data.environment import Environments, episode
from modelwright.data.rows import Rows
from modelwright.runtime.catalog import Session

MOST_TOGETHER = 256


def play(session: Session, rows: Rows) -> dict[str, np.ndarray]:
    """Play each row's episode to its end.

    Args:
        rows: episodes, as data/environment.py makes them.
    Returns: by name (rows,) float64: "return", the sum of the rewards; "length", the steps.
    Raises: IntegrityError if an output is not a number.
    """
    returns, lengths = np.zeros(len(rows)), np.zeros(len(rows))
    for start in range(0, len(rows), MOST_TOGETHER):
        _play(session, rows, range(start, min(start + MOST_TOGETHER, len(rows))), returns, lengths)
    return {"return": returns, "length": lengths}


def _play(
    session: Session, rows: Rows, chosen: range, returns: np.ndarray, lengths: np.ndarray
) -> None:
    spec = session.signature.inputs[0]
    length = spec.shape[1]
    assert isinstance(length, int)
    worlds = Environments(episode(rows.origins[chosen[0]])[0], len(chosen), length)
    for place, row in enumerate(chosen):
        worlds.start(place, episode(rows.origins[row])[1])
    running = np.arange(len(chosen))
    while len(running):
        found = session({spec.name: worlds.observations[running]})
        scores = found[session.signature.outputs[0].name]
        if not np.isfinite(scores).all():
            raise IntegrityError(
                "evaluate: the model gives NaN or infinity while it acts",
                expected="finite outputs",
                repair="take an earlier checkpoint, or train again with a lower learning rate",
            )
        still = np.ones(len(running), np.bool_)
        for turn, (place, action) in enumerate(
            zip(running.tolist(), scores.argmax(-1).tolist(), strict=True)
        ):
            reward, ended, cut = worlds.step(place, action)
            returns[chosen[place]] += reward
            lengths[chosen[place]] += 1
            still[turn] = not (ended or cut)
        running = running[still]
