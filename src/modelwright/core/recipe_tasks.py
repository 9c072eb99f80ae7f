"""What the recipe's keys are to each task: its measure, the keys that it reads, the steps it takes.

One part of the page of knobs. A key that a task does not read stands here with those that do, so
that a recipe that sets it is refused; what hangs on the format of the data stands in SOURCES of
data/catalog.py, and a test holds the two together.
"""

from collections.abc import Iterator
from typing import Literal

from modelwright.core import decode
from modelwright.core.decode import Decode
from modelwright.core.recipe_data import Section

TaskName = Literal[
    "image-classification", "text-classification", "audio-classification", "tagging",
    "forecasting", "language-modeling", "translation", "recommendation", "transcription",
    "rating-prediction",
    "image-text-matching", "detection", "control",
]  # fmt: skip

_OF_CLASSES = ("accuracy", "balanced_accuracy", "f1_macro")
# what a task's quality is measured by, the first where the goals name none; tasks/catalog.py says
# how
QUALITY_OF: dict[str, tuple[str, ...]] = {
    "image-classification": _OF_CLASSES,
    "text-classification": _OF_CLASSES,
    "audio-classification": _OF_CLASSES,
    "transcription": ("wer", "cer"),
    "tagging": ("f1",),
    "forecasting": ("mse", "mae"),
    "recommendation": ("ndcg_at_10", "hr_at_10"),
    "rating-prediction": ("rmse", "mae"),
    "language-modeling": ("nats_per_char", "bits_per_byte"),
    "detection": ("ap50", "ap"),
    "control": ("mean_return",),
    "image-text-matching": ("recall_at_10",),
    "translation": ("bleu",),
}

NO_LABELS = (
    "forecasting", "transcription", "image-text-matching", "detection", "control",
    "rating-prediction",
)  # fmt: skip
# whose loss compares the rows of a batch with each other, or makes its own
WHOLE_BATCHES = ("image-text-matching", "control")
WRITES = {"language-modeling": "on", "translation": "anew"}  # a text, and how

# how tasks over texts may cut them besides "auto"; the others have no tokens
_TEXTS, _STREAMS = ("characters", "words", "given"), ("characters", "bytes", "bpe")
UNITS_OF_TASK = {
    "text-classification": _TEXTS, "tagging": _TEXTS, "image-text-matching": _TEXTS,
    "language-modeling": _STREAMS, "transcription": _STREAMS, "translation": _STREAMS,
}  # fmt: skip
NEEDS_HORIZON = ("forecasting",)
# whose rows are not cut: one that is asked for, or written, may be longer than any of train
NO_LONGEST = ("audio-classification", "tagging", "transcription", "translation")


def _all_but(*tasks: str) -> tuple[str, ...]:
    return tuple(task for task in QUALITY_OF if task not in tasks)


_FEATURES = tuple(task for task, units in UNITS_OF_TASK.items() if units is _TEXTS)
_IN_ORDER = ("forecasting", "language-modeling")
_GIVEN_PARTS = ("recommendation", "control")  # what is held out is no share of the rows
_CLASSES = tuple(task for task, measures in QUALITY_OF.items() if measures is _OF_CLASSES)
_PICTURES = ("image-classification", "image-text-matching", "detection")
# keys that not every task reads
TASKS_OF_KEY: dict[str, tuple[str, ...]] = {
    "data.valid": _all_but(*_GIVEN_PARTS),
    "data.test": _all_but(*_GIVEN_PARTS),
    "data.split_seed": _all_but(*_IN_ORDER, "recommendation"),
    "data.image_size": _PICTURES,
    "data.rate": ("audio-classification", "transcription"),
    "data.files": (
        "text-classification", "tagging", "language-modeling", "translation", "transcription",
        "rating-prediction",
    ),
    "data.columns.text": ("text-classification", "transcription", "language-modeling"),
    "data.columns.label": ("text-classification",),
    "data.columns.file": ("transcription",),
    "data.columns.words": ("tagging",),
    "data.columns.tags": ("tagging",),
    "data.columns.source": ("translation",),
    "data.columns.target": ("translation",),
    "data.clean": (
        "text-classification", "translation", "transcription", "image-text-matching",
        "language-modeling",
    ),
    "data.tokens.unit": tuple(UNITS_OF_TASK),
    "data.tokens.features": _FEATURES,
    "data.tokens.vocab_size": tuple(UNITS_OF_TASK),
    "data.tokens.joint": ("translation",),
    "data.tokens.max_length": (*_FEATURES, "translation"),
    "data.horizon": ("forecasting",),
    "data.channels": ("forecasting",),
    "data.window": (*_IN_ORDER, "control"),
    "data.split_rows": _IN_ORDER,
    "data.interactions": ("recommendation", "rating-prediction"),
    "data.interactions.time": ("recommendation",),
    "data.interactions.rating": ("rating-prediction",),
    "data.pair": ("translation",),
    "data.episodes": ("control",),
    "data.checks.near_duplicate_similarity": _PICTURES,
    "data.checks.label_noise": _CLASSES,
    "model.dropout": _all_but("control"),  # what was played would be looked at under another mask
    "model.mirror": ("image-classification",),
    "train.label_smoothing": _all_but(*NO_LABELS),
    "train.class_weights": _CLASSES,
    "train.micro_batch_size": _all_but(*WHOLE_BATCHES),
    "train.batch_warmup_steps": _all_but(*WHOLE_BATCHES),
    "train.window_warmup_steps": ("language-modeling",),
    "train.algorithm": ("control",),
    "train.discount": ("control",),
    "train.stop_at": ("control",),
    **{f"decode.{key}": tuple(task for task, how in WRITES.items() if key in decode.READ[how])
       for key in Decode.model_fields},
}  # fmt: skip
_FEW = 3  # tasks that are named as those that do not read a key, if no more

# steps of train.augment that a task takes; data/augment*.py do them
STEPS_OF_IMAGES = ("flip", "crop", "shift", "rotate", "shear", "zoom", "erase")
STEPS_OF_BOXES = ("flip", "shift", "zoom", "mosaic", "erase")
SOUND_STEPS = ("mask_time", "mask_frequency", "speed")
STEPS_OF_TASK: dict[str, tuple[str, ...]] = {
    "image-classification": (*STEPS_OF_IMAGES, "mixup", "cutmix"),
    "image-text-matching": STEPS_OF_IMAGES,
    "detection": STEPS_OF_BOXES,
    "audio-classification": SOUND_STEPS,
    "transcription": SOUND_STEPS,
    "text-classification": ("drop_tokens",),
    "tagging": ("drop_tokens",),
    "language-modeling": ("drop_tokens",),
    "translation": ("drop_tokens",),
    "forecasting": ("jitter",),
}


def unread_keys(task: str, recipe: Section) -> Iterator[tuple[str, str]]:
    """Each key that is set and that the task does not read, and that in a sentence.

    A key that has its default is not set: a resolved recipe writes out every one.
    """
    for name, tasks in TASKS_OF_KEY.items():
        if task in tasks or not recipe.sets(name):
            continue
        others = _all_but(*tasks)
        if len(others) <= _FEW:
            yield name, f"{name}: {task} does not read it; all do but {_listed(others)}"
        else:
            do = "do" if len(tasks) > 1 else "does"
            yield name, f"{name}: {task} does not read it, only {_listed(tasks)} {do}"


def _listed(words: tuple[str, ...]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
