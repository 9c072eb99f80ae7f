"""Embed, body, head: what every model consists of."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modelwright.models.carried import Carried


class Model(nn.Module):
    """embed -> body -> head.

    The inputs of the model's signature, in order -> the first tensor of its outputs.
    """

    def __init__(self, embed: nn.Module, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.embed, self.body, self.head = embed, body, head

    def forward(self, *inputs: Tensor) -> Tensor:
        features, mask = self.embed(*inputs)
        return self.head(self.body(features, mask), mask, *inputs)  # type: ignore[no-any-return]

    def encode(self, *inputs: Tensor) -> list[Tensor]:
        """Of a model that writes: the memory of all inputs but the last. One that goes on with a
        text has no other, and remembers nothing but its state."""
        return []

    def decode(
        self, ids: Tensor, memory: Sequence[Tensor], carried: Carried | None = None
    ) -> Tensor:
        """Of a model that writes: as `forward`, from where the last call ended."""
        features, mask = self.embed(ids)
        return self.head(self.body(features, mask, carried), mask, ids)  # type: ignore[no-any-return]


class MirroredModel(Model):
    """Answers with the mean over each picture and its mirror image, left for right.

    A step of training sees each picture once, as it comes; there it is augmentation that flips.
    Source: Krizhevsky et al. 2012, section 4.1, without its crops.
    """

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.training:
            return super().forward(*inputs)
        (images,) = inputs
        both = super().forward(torch.cat([images, images.flip(-1)]))
        return both.view(2, -1, both.shape[1]).mean(0)
