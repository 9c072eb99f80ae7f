"""Episodes played by a model, greedily: the action of the largest score at every step.

The same for every runtime. Episodes run side by side, one call of the model for a step of all;
where one is over, the next of those that wait begins.
"""

import numpy as np

from modelwright.core.errors import IntegrityError
from modelwright.data.environment import Environments, episode
from modelwright.data.rows import Rows
from modelwright.runtime.catalog import Session

MOST_TOGETHER = 32  # what is over and has no next is stepped on, unwatched, so not all at once


def play(session: Session, rows: Rows) -> dict[str, np.ndarray]:
    """Play each row's episode to its end.

    Args:
        rows: episodes, as data/environment.py makes them.
    Returns: by name (rows,) float64: "return", the sum of the rewards; "length", the steps.
    Raises: IntegrityError if an output is not a number.
    """
    spec = session.signature.inputs[0]
    length = spec.shape[1]
    assert isinstance(length, int)
    seeds = [episode(origin)[1] for origin in rows.origins]
    number = -(-len(rows) // -(-len(rows) // MOST_TOGETHER))  # so that all play about as many
    worlds = Environments(episode(rows.origins[0])[0], number, length)
    returns, lengths = np.zeros(len(rows)), np.zeros(len(rows))
    at, following = np.arange(number), number  # which row each of them plays; which is the next
    worlds.start(seeds[:number])
    running = np.ones(number, np.bool_)
    while running.any():
        found = session({spec.name: worlds.observations[running]})
        scores = found[session.signature.outputs[0].name]
        if not np.isfinite(scores).all():
            raise IntegrityError(
                "evaluate: the model gives NaN or infinity while it acts",
                expected="finite outputs",
                repair="take an earlier checkpoint, or train again with a lower learning rate",
            )
        actions = np.zeros(number, np.int64)
        actions[running] = scores.argmax(-1)
        rewards, ended, cut = worlds.step(actions)
        returns[at[running]] += rewards[running]
        lengths[at[running]] += 1
        over = ended | cut
        for place in np.flatnonzero(over & running).tolist():
            running[place] = following < len(rows)
            if running[place]:
                at[place], following = following, following + 1
        worlds.start([seeds[at[place]] if new else None for place, new in enumerate(over)])
    return {"return": returns, "length": lengths}
