"""Environments of gymnasium: made by id alone, several side by side, their observations as inputs.

A row of valid or test is an episode: its seed is the target, its first observation the input. Rows
of train are observations that random play visits; from them come means, spreads and the scale of
returns. Source: Towers et al. 2024, arXiv:2407.17032 (Gymnasium).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelwright.core import recipe
from modelwright.core.errors import (
    ConfigError,
    DataError,
    MissingExtra,
    Unsupported,
    did_you_mean,
)
from modelwright.data.rows import Array, Loaded, Prepared, Rows

PREFIX = "gymnasium:"
SUFFIXES = (".csv", ".json", ".txt")
EPISODES = 100  # of valid and of test, where the recipe does not say
TRAIN_ROWS, PLAYERS, STICKY = 2048, 16, 0.75  # random play repeats its last action that often
MOST_FEATURES = 1024
MOST_STEPS = 1000  # of an episode, where the environment sets no limit
DISCOUNT = 0.99  # of the returns whose size is measured, as train.discount's default
# parts have seeds of their own: valid and test from here on, train from TRAIN_SEEDS on
SEEDS = {"train": 0, "valid": 1_000_000, "test": 2_000_000}
SEEDS_A_SPLIT = 10_000_000
TRAIN_SEEDS = 2**40
# what actions and observed numbers are called; gymnasium has no names for them, its docs do
# (gymnasium.farama.org/environments/classic_control, read on 2026-11-22)
NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "CartPole": (
        ("push left", "push right"),
        ("cart position", "cart velocity", "pole angle", "pole angular velocity"),
    ),
    "Acrobot": (
        ("torque -1", "torque 0", "torque +1"),
        ("cos of angle 1", "sin of angle 1", "cos of angle 2", "sin of angle 2",
         "angular velocity 1", "angular velocity 2"),
    ),
    "MountainCar": (
        ("accelerate left", "coast", "accelerate right"), ("position", "velocity"),
    ),
}  # fmt: skip


def is_named(source: str) -> bool:
    """Whether a recipe's source names an environment."""
    return source.startswith(PREFIX)


class Environments:
    """Several copies of one environment, stepped together by gymnasium's SyncVectorEnv.

    No episode begins by itself (autoreset DISABLED): each begins from a seed of its own, so it can
    be played again, and the last observation of one is never the first of the next.

    observations: float32 (number, length, features), oldest first; the first observation of an
        episode fills all places. It is written anew by `step` and `start`, so keep copies.

    Raises: as `create`.
    """

    def __init__(self, env_id: str, number: int, length: int) -> None:
        vector = _gymnasium().vector
        self._worlds = vector.SyncVectorEnv(
            [partial(create, env_id)] * number, copy=False,
            autoreset_mode=vector.AutoresetMode.DISABLED,
        )  # fmt: skip
        features = width(self._worlds.envs[0])
        self._first = int(self._worlds.single_action_space.start)
        self.observations = np.zeros((number, length, features), np.float32)

    def __len__(self) -> int:
        return len(self.observations)

    def start(self, seeds: Sequence[int | None]) -> None:
        """Begin the episode that a seed gives; those without a seed stay where they are.

        The first time all of them need one.
        """
        begun = np.array([seed is not None for seed in seeds])
        if begun.any():
            seen, _ = self._worlds.reset(seed=list(seeds), options={"reset_mask": begun})
            self.observations[begun] = self._flat(seen)[begun, None]

    def step(self, actions: Array) -> tuple[Array, Array, Array]:
        """Take an action in each; gives (number,) rewards, float64, and whether the episodes came
        to their end or to their limit of steps. One that did has to `start` before the next step.
        """
        seen, rewards, ended, cut, _ = self._worlds.step(actions + self._first)
        self.observations[:, :-1] = self.observations[:, 1:]
        self.observations[:, -1] = self._flat(seen)
        return rewards, ended, cut

    def _flat(self, seen: Any) -> Array:
        """Observations of all, as gymnasium puts them together: (number, features) float32."""
        gymnasium, worlds = _gymnasium(), self._worlds
        if isinstance(worlds.single_observation_space, gymnasium.spaces.Box):
            return np.asarray(seen, np.float32).reshape(len(self), -1)
        every = gymnasium.vector.utils.iterate(worlds.observation_space, seen)
        return np.stack(
            [gymnasium.spaces.flatten(worlds.single_observation_space, one) for one in every]
        ).astype(np.float32)


def create(env_id: str) -> Any:
    """One environment of gymnasium's registry.

    Raises: ConfigError for an id that is not registered, or that names a module to import;
        MissingExtra without gymnasium; Unsupported for one without a few numbers to see and a few
        actions to choose from, or whose own libraries are not installed.
    """
    gymnasium = _gymnasium()
    if ":" in env_id:
        raise ConfigError(
            f"data.source: {env_id!r} names a module, which would be imported and run",
            expected="the id of an environment that gymnasium registers itself, such as "
            "gymnasium:CartPole-v1: no code comes from a recipe",
            repair="use an id without a colon",
        )
    if env_id not in gymnasium.registry:
        raise ConfigError(
            f"data.source: gymnasium {gymnasium.__version__} has no environment {env_id!r}",
            expected=did_you_mean(env_id, gymnasium.registry),
            repair="write gymnasium: and an id with its version, such as gymnasium:CartPole-v1",
        )
    limit = gymnasium.spec(env_id).max_episode_steps
    try:
        made = gymnasium.make(
            env_id, disable_env_checker=True, max_episode_steps=limit or MOST_STEPS
        )
    except Exception as error:  # whatever an environment raises that cannot be made here
        raise Unsupported(
            f"gymnasium cannot make {env_id!r}: {str(error).splitlines()[0]}",
            expected="an environment whose libraries are installed and that needs no arguments",
        ) from error
    if not isinstance(made.action_space, gymnasium.spaces.Discrete):
        raise Unsupported(
            f"{env_id!r} takes actions of the kind {type(made.action_space).__name__}",
            expected="a few actions to choose from (Discrete)",
        )
    if width(made) > MOST_FEATURES:
        raise Unsupported(
            f"an observation of {env_id!r} has {width(made):,} numbers",
            expected=f"at most {MOST_FEATURES:,}, and no pictures",
        )
    return made


def width(world: Any) -> int:
    """Numbers of one observation."""
    spaces, space = _gymnasium().spaces, world.observation_space
    try:
        return int(spaces.flatdim(space))
    except (NotImplementedError, ValueError) as error:
        raise Unsupported(
            f"observations of the kind {type(space).__name__} have no fixed number of values",
            expected="an environment that is seen as numbers",
        ) from error


def episode(origin: str) -> tuple[str, int]:
    """The environment and the seed of an episode's row, from its name.

    >>> episode("CartPole-v1 2000000")
    ('CartPole-v1', 2000000)
    """
    env_id, _, seed = origin.rpartition(" ")
    return env_id, int(seed)


def read(path: Path, section: recipe.Data) -> Loaded:
    """Observations of random play as train; the first ones of held-out episodes as valid and test.

    Raises: as `create`.
    """
    env_id, length = section.source.removeprefix(PREFIX), section.window or 1
    first = SEEDS_A_SPLIT * section.split_seed
    number = section.episodes or EPISODES
    parts = {"train": _random_play(env_id, length, first + SEEDS["train"])}
    worlds = Environments(env_id, 1, length)
    for part in ("valid", "test"):
        seeds = np.arange(number) + first + SEEDS[part]
        seen = np.empty((number, *worlds.observations.shape[1:]), np.float32)
        for row, seed in enumerate(seeds.tolist()):
            worlds.start([seed])
            seen[row] = worlds.observations[0]
        parts[part] = Rows(
            {"observation": seen}, seeds[:, None], [f"{env_id} {seed}" for seed in seeds]
        )
    actions = int(create(env_id).action_space.n)
    known = NAMES.get(env_id.rpartition("-")[0], ((), ()))[0]
    labels = known if len(known) == actions else [f"action {place}" for place in range(actions)]
    return parts, list(labels), []


def _random_play(env_id: str, length: int, seed: int) -> Rows:
    """TRAIN_ROWS observations, evenly from whole episodes.

    inputs: "observation"; targets: (rows, 2) float32, the reward that followed, and the discounted
    return from there on.
    """
    worlds = Environments(env_id, 1, length)
    actions = int(create(env_id).action_space.n)
    seen: list[Array] = []
    targets: list[Array] = []
    origins: list[str] = []
    played = 0
    while len(seen) < TRAIN_ROWS or played < PLAYERS:
        draw = np.random.default_rng((seed, played))
        worlds.start([seed + played])
        rewards: list[float] = []
        action, over = 0, False
        while not over:
            seen.append(worlds.observations[0].copy())
            origins.append(f"{env_id} {seed + played}")
            if not rewards or draw.random() > STICKY:
                action = int(draw.integers(actions))
            reward, ended, cut = worlds.step(np.array([action]))
            rewards.append(float(reward[0]))
            over = bool(ended[0] or cut[0])
        returns = np.zeros(len(rewards) + 1)
        for step in reversed(range(len(rewards))):
            returns[step] = rewards[step] + DISCOUNT * returns[step + 1]
        targets.append(np.stack([rewards, returns[:-1]], axis=1))
        played += 1
    chosen = np.linspace(0, len(seen) - 1, TRAIN_ROWS).astype(np.int64)
    every = np.concatenate(targets).astype(np.float32)
    return Rows(
        {"observation": np.stack([seen[row] for row in chosen])}, every[chosen],
        [origins[row] for row in chosen],
    )  # fmt: skip


def prepare(parts: dict[str, Rows], section: recipe.Data, answer: str) -> Prepared:
    """The same rows, and what they say: centre and spread of each number seen, size of returns.

    Where a number has bounds, they are its spread; elsewhere the one that random play shows.
    """
    env_id = section.source.removeprefix(PREFIX)
    world = create(env_id)
    seen = parts["train"].inputs["observation"]
    assert isinstance(seen, np.ndarray)
    flat = seen[:, -1].astype(np.float64)
    space = _gymnasium().spaces.flatten_space(world.observation_space)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = (np.abs(low) < 1e6) & (np.abs(high) < 1e6) & (high > low)
    low, high = np.where(bounded, low, 0), np.where(bounded, high, 0)
    spread = np.where(flat.std(0) > 1e-6, flat.std(0), 1.0)
    known = NAMES.get(env_id.rpartition("-")[0], ((), ()))[1]
    features = seen.shape[2]
    inputs = {
        "kind": "observation", "env_id": env_id, "length": seen.shape[1], "features": features,
        "channels": list(known) if len(known) == features
        else [f"value {place}" for place in range(features)],
        "mean": np.where(bounded, (low + high) / 2, flat.mean(0)).tolist(),
        "std": np.where(bounded, (high - low) / 2, spread).tolist(),
    }  # fmt: skip
    targets = parts["train"].targets
    assert isinstance(targets, np.ndarray)
    size = float(np.sqrt(np.square(targets[:, 1], dtype=np.float64).mean()))
    answers = {"num_classes": int(world.action_space.n), "scale": size or 1.0}
    made = {part: replace(rows, targets=_seeds(rows)) for part, rows in parts.items()}
    return Prepared(made, inputs, answers, {})


def _seeds(rows: Rows) -> Array:
    """Of the episode that each row belongs to, int64 (rows, 1)."""
    return np.array([[episode(origin)[1]] for origin in rows.origins], np.int64)


def preprocess(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What is done to an observation inside the graph, for the manifest."""
    return {
        "env_id": inputs["env_id"], "length": inputs["length"],
        "channels": list(inputs["channels"]),
        "in_graph": "subtract the mean, divide by the spread, for each number",
    }  # fmt: skip


def read_input(
    content: bytes, inputs: Mapping[str, Any], files: Mapping[str, bytes]
) -> dict[str, npt.NDArray[Any]]:
    """The numbers of the last observations, oldest first, as a batch of one.

    They stand between commas, blanks or line ends, or in a JSON list; one observation alone is
    taken for the first of an episode. -> {"observation": (1, length, features) float32}

    Raises: DataError if they are no numbers, or not as many as the model takes.
    """
    length, features = int(inputs["length"]), int(inputs["features"])
    try:
        text = content.decode("utf-8-sig").strip()
        if text[:1] in ("[", "{"):
            found = json.loads(text)
            found = found.get("observation") if isinstance(found, dict) else found
            seen = np.asarray(found, np.float64).ravel()
        else:
            seen = np.array([float(one) for one in re.split(r"[\s,;]+", text) if one])
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(
            "this is no observation: not all of it are numbers",
            expected=_takes(inputs),
        ) from error
    counts = dict.fromkeys((features, length * features))
    with np.errstate(over="ignore"):  # what 32 bits don't hold is refused below
        values = seen.astype(np.float32)
    if values.size not in counts or not np.isfinite(values).all():
        many = f"{values.size} number{'' if values.size == 1 else 's'}"
        raise DataError(
            f"this is no observation: {many}, and the model takes {' or '.join(map(str, counts))}"
            if values.size not in counts
            else "this is no observation: one of the numbers is not finite in 32 bits",
            expected=_takes(inputs),
        )
    rows = values.reshape(-1, features)
    return {"observation": np.ascontiguousarray(np.broadcast_to(rows, (1, length, features)))}


def _takes(inputs: Mapping[str, Any]) -> str:
    """How many numbers stand for one question, and which."""
    length, features = int(inputs["length"]), int(inputs["features"])
    return f"{features} numbers with commas between: {_listed(inputs['channels'])}" + (
        f"; or {length * features}, the last {length} observations" if length > 1 else ""
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise MissingExtra("gymnasium", "control", "Learning to act in an environment") from error
    return gymnasium
