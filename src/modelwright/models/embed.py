"""Bytes of images to what a body takes: normalised grids, patches, rows."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Pixels to numbers around zero; part of the model, so that it ships inside the graph.

    images: (batch, channels, height, width), 0 to 255, uint8 or float -> float32, same shape
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        inverse = 1 / torch.tensor(std, dtype=torch.float32)
        self.register_buffer("inverse_std", inverse.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) * self.inverse_std


class Patches(nn.Module):
    """Cut a grid into patches and map each to a vector.

    grid: (batch, channels, height, width) -> (batch, time, dim); time runs row by row.
    Rows of an image are patches of height 1 and full width.
    Source: Dosovitskiy et al. 2020, arXiv:2010.11929, section 3.1.
    """

    def __init__(self, channels: int, patch: tuple[int, int], dim: int) -> None:
        super().__init__()
        self.patch = patch
        # not a convolution with as large a stride: in bf16 and channels-last, torch 2.13's reads
        # memory that it never wrote when a patch is one pixel high
        self.project = nn.Linear(channels * patch[0] * patch[1], dim)

    def forward(self, grid: Tensor) -> Tensor:
        batch, channels, height, width = grid.shape
        down, across = self.patch
        cells = grid.reshape(batch, channels, height // down, down, width // across, across)
        patches = cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return torch.as_tensor(self.project(patches))
