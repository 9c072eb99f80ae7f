"""Parts that several architectures share: attention, norms, positions, convolution with norm."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNorm(nn.Sequential):
    """Convolution without bias, then batch norm: one unit to the exporter, pruner and quantizer.

    features: (batch, in_channels, height, width) -> (batch, out_channels, height / stride, ...)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        zero_init: bool = False,
    ) -> None:
        conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False
        )
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        norm = nn.BatchNorm2d(out_channels)
        if zero_init:  # the block starts as its skip: arXiv:1812.01187, section 3.1
            nn.init.zeros_(norm.weight)
        super().__init__(conv, norm)


def sinusoidal_positions(length: int, dim: int) -> Tensor:
    """Fixed position vectors, (length, dim); pairs of sine and cosine.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.

    >>> sinusoidal_positions(4, 6).shape
    torch.Size([4, 6])
    """
    position = torch.arange(length, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * (-math.log(10_000.0) / dim))
    angle = position * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(length, -1)[:, :dim]


class Attention(nn.Module):
    """Multi-head self-attention.

    sequence: (batch, time, dim) -> (batch, time, dim)

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, sequence: Tensor) -> Tensor:
        batch, time, dim = sequence.shape
        qkv = self.qkv(sequence).view(batch, time, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return torch.as_tensor(self.out(mixed.transpose(1, 2).reshape(batch, time, dim)))
