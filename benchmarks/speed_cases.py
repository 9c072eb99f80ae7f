"""The models of train_speed.py, each with rows to train it on, and how others read those rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelwright.core.recipe import Augment, Precision, Train
from modelwright.data.augment import apply
from modelwright.data.draw import Draw
from modelwright.data.rows import Rows
from modelwright.data.shared import Windows
from modelwright.models.catalog import ModelSpec, fresh_model
from modelwright.train.settings import Budget, Settings, fill_in

BLOCK, WINDOW, VOCAB_SIZE, CHARACTERS = 12, 64, 65, 1_000_000  # nanoGPT's batch on CPUs
IMAGES, CLASSES, SIDE = 60_000, 10, 28  # as many as MNIST trains on
# what examples for MNIST norm pixels by, as torch's own do; github.com/pytorch/examples, mnist
MEAN, STD, MNIST_BATCH = 0.1307, 0.3081, 64
PAD = 4  # of random crops: He et al. 2015, and every example for CIFAR-10 since
LEARNING_RATE = 1e-3
WHOLE = Budget(steps=100_000)  # of a training that the blocks are cut from
FROM_CATALOG = {"optimizer": "adamw", "learning_rate": LEARNING_RATE, "ema": 0, "keep": "last"}

Batch = tuple[Tensor, Any]


@dataclass(frozen=True)
class Case:
    """A model and rows to train it on.

    Args:
        spec: of the rows; of the model too, unless `own` makes another.
        gather: inputs and targets of the rows with these numbers, as a bare loop takes them.
        item: those of one row, as a loader asks for them.
        keys: of the recipe's train section besides.
        own: the model, of inputs as `gather` gives them.
        before: what the product's model does to its inputs first, where they are not `gather`'s.
    """

    name: str
    spec: ModelSpec
    task: str
    rows: Rows
    batch_size: int
    steps: int  # of a block
    gather: Callable[[Tensor], Batch]
    item: Callable[[int], Batch]
    keys: dict[str, Any]
    own: Callable[[], nn.Module] | None = None
    before: nn.Module | None = None

    def settings(self, precision: Precision, **keys: Any) -> Settings:
        section = Train.model_validate(
            {**FROM_CATALOG, "batch_size": self.batch_size, **self.keys, **keys}
        )
        return fill_in(section, self.spec, precision, WHOLE)

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model = (self.own() if self.own else fresh_model(self.spec, 0)).train()
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def product_model(self) -> nn.Module:
        """The same, of rows as they lie in memory."""
        model = self.model()
        return model if self.before is None else nn.Sequential(self.before, model)


def gpt() -> Case:
    """Four layers, four heads, 128 features: nanoGPT's model for CPUs, on as many characters."""
    ids = torch.randint(VOCAB_SIZE, (CHARACTERS,), generator=torch.Generator().manual_seed(0))
    starts = torch.arange(0, CHARACTERS - WINDOW - 1, 16)

    def gather(rows: Tensor) -> Batch:
        found = ids[starts[rows][:, None] + torch.arange(WINDOW + 1)]
        return found[:, :-1, None], found[:, 1:]

    def item(row: int) -> Batch:
        found = ids[16 * row : 16 * row + WINDOW + 1]
        return found[:-1, None], found[1:]

    inputs = {"kind": "stream", "vocab_size": VOCAB_SIZE, "features": 1, "length": WINDOW,
              "max_length": WINDOW, "unit": "characters", "overlap": 4.0}  # fmt: skip
    spec = ModelSpec("transformer", "small", inputs, {"kind": "next", "num_classes": VOCAB_SIZE})
    kept, first = ids.numpy().astype(np.int32), starts.numpy()
    rows = Rows(
        {"ids": Windows(kept[:, None], first, WINDOW)}, Windows(kept, first + 1, WINDOW),
        [""] * len(first),
    )  # fmt: skip
    return Case("GPT", spec, "language-modeling", rows, BLOCK, 30, gather, item, {})


def _pictures() -> tuple[Tensor, Tensor, Rows, ModelSpec]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES, 1, SIDE, SIDE), np.uint8)
    targets = random.integers(0, CLASSES, IMAGES)
    inputs = {"kind": "image", "shape": [1, SIDE, SIDE], "mean": [128.0], "std": [74.0]}
    spec = ModelSpec("cnn", "tiny", inputs, {"kind": "classes", "num_classes": CLASSES})
    rows = Rows({"image": images}, targets, [""] * IMAGES)
    return torch.from_numpy(images), torch.from_numpy(targets), rows, spec


def cnn_tiny() -> Case:
    """The smallest convolution net of the catalog, on pixels as they are: a model in which the
    mathematics takes most of a step whoever trains it."""
    pixels, labels, rows, spec = _pictures()
    return Case("cnn-tiny", spec, "image-classification", rows, 128, 60,
                lambda rows: (pixels.index_select(0, rows), labels.index_select(0, rows)),
                lambda row: (pixels[row], labels[row]), {})  # fmt: skip


class Normalized(nn.Module):
    """uint8 pixels to what a net takes."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float().sub_(255 * MEAN).div_(255 * STD)


def lenet_model() -> nn.Module:
    """LeNet-5 with ReLU and max-pooling, 61,706 parameters: LeCun et al. 1998, figure 2, as the
    tutorial "Neural Networks" on pytorch.org has it; padded, since MNIST's pictures are of 28."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES),
    )  # fmt: skip


def lenet() -> Case:
    """LeNet, in batches of 64 as torch's example for MNIST, with the augmentation of its examples
    for CIFAR-10: random crops with a padding of four, and flips.

    A loader's rows are a data set of torchvision's kind, one by one through transforms, written
    here in torch's own operations, fewer than torchvision takes; ours and the bare loop's are
    whole batches through the product's.
    """
    pixels, labels, rows, spec = _pictures()
    steps = (Augment(crop=PAD), Augment(flip="horizontal"))
    before, numbers, draw = Normalized(), labels.tolist(), Draw(torch.default_generator)

    def gather(rows: Tensor) -> Batch:
        images = apply(pixels.index_select(0, rows), steps, draw).images
        return before(images), labels.index_select(0, rows)

    def item(row: int) -> Batch:
        padded = F.pad(pixels[row], (PAD, PAD, PAD, PAD))
        top, left = torch.randint(2 * PAD + 1, (2,)).tolist()
        image = padded[:, top : top + SIDE, left : left + SIDE]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return image.float().div_(255).sub_(MEAN).div_(STD), numbers[row]

    keys = {"augment": [step.model_dump(exclude_none=True) for step in steps]}
    return Case("LeNet", spec, "image-classification", rows, MNIST_BATCH, 200, gather, item, keys,
                own=lenet_model, before=before)  # fmt: skip
