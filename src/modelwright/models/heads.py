"""What a body's output becomes: scores of classes."""

from typing import Literal

import torch
from torch import Tensor, nn


class ClassHead(nn.Module):
    """Pool, then one linear layer.

    features: (batch, dim, height, width) or (batch, time, dim) -> logits (batch, num_classes)

    Args:
        pool: "mean" over all places, or the "first" place (a class token).
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        *,
        pool: Literal["mean", "first"] = "mean",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        if self.pool == "first":
            pooled = features[:, 0]
        else:
            pooled = features.mean((2, 3) if features.dim() == 4 else 1)
        return torch.as_tensor(self.linear(self.dropout(pooled)))
