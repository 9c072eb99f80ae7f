"""How ratings are predicted: the head, and the sizes of each family over lists of ratings.

What an experiment chose stands in docs/experiments.md.
"""

import torch
from torch import Tensor, nn

from modelwright.models.layers import Dropout
from modelwright.models.sizes import ATTENTION, CONVOLUTIONS, RECURRENCE, ladder

LADDERS = {
    "cnn": ladder(
        CONVOLUTIONS,
        (32, (32,), 0.0), (64, (64, 64), 0.3), (96, (128, 128), 0.4), (128, (192,) * 3, 0.4),
        batch_size=32, learning_rate=0.01, weight_decay=0.1, warmup_steps=50,
    ),
    "rnn": ladder(
        RECURRENCE, (32, 16, 1, 0.0), (64, 64, 1, 0.3), (96, 96, 1, 0.4), (128, 128, 2, 0.4),
        batch_size=32, learning_rate=0.005, weight_decay=0.1, warmup_steps=50,
    ),
    "transformer": ladder(
        ATTENTION, (32, 1, 0.0), (64, 1, 0.3), (96, 2, 0.3), (128, 3, 0.4),
        batch_size=32, learning_rate=0.01, weight_decay=0.1, warmup_steps=50,
    ),
}  # fmt: skip
PENALTY, BIAS_PENALTY = 0.1, 0.02  # of a rating, in squared errors


class RatingHead(nn.Module):
    """The rating of the item asked for: how its vector agrees with a vector of the user's taste.

    The taste is the user's own vector and what the body makes of the ratings told.

    features: (batch, time, dim); vectors: (vocab_size, item_dim), the embedding's; ids: (batch,
    time, 4), the item asked for and the user first -> (batch, 1) after the last real place; while
    training (batch, time, 2), of each place the rating, and the penalty on what it is made of

    Source: Koren 2008, KDD, "Factorization Meets the Neighborhood", equations 15 (both vectors)
        and 16 (the penalty).
    """

    def __init__(
        self, dim: int, item_dim: int, vocab_size: int, *, mean: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.mean = mean
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(dim, item_dim + 1)  # the taste, and how high the user rates
        self.bias = nn.Parameter(torch.zeros(vocab_size))  # of items and of users
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor, mask: Tensor, vectors: Tensor, ids: Tensor) -> Tensor:
        pair = ids[..., :2]
        if not self.training:
            features, pair = last_real(features, mask), last_real(pair, mask)
        told = self.linear(self.dropout(features))
        item, user = nn.functional.embedding(pair, vectors).unbind(-2)
        taste, bias = user + told[..., 1:], self.bias[pair]
        rating = self.mean + bias.sum(-1) + told[..., 0] + (item * taste).sum(-1)
        if not self.training:
            return torch.as_tensor(rating[:, None])
        penalty = PENALTY * (item.square() + taste.square()).sum(-1)
        penalty = penalty + BIAS_PENALTY * (bias.square().sum(-1) + told[..., 0].square())
        return torch.stack([rating, penalty], dim=-1)


def last_real(features: Tensor, mask: Tensor) -> Tensor:
    """The features of each row's last real place, (batch, dim)."""
    last = (mask.sum(1) - 1).clamp_min(0)[:, None, None].expand(-1, 1, features.shape[2])
    return features.gather(1, last).squeeze(1)
