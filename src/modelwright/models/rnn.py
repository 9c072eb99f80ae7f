"""Recurrent nets over sequences: LSTM and GRU, one and two directions.

Source: Hochreiter, Schmidhuber 1997 (LSTM); Cho et al. 2014, arXiv:1406.1078 (GRU).
"""

from typing import Literal

import torch
from torch import Tensor, nn

from modelwright.models.groups import Group, Groups, Place


class RecurrentBody(nn.Module):
    """A stack of recurrent layers.

    sequence: (batch, time, in_dim) -> (batch, time, out_dim)

    Args:
        hidden_dim: state size of one direction; out_dim is twice that with two directions.
        dropout: between layers, while training.
    """

    def __init__(
        self,
        in_dim: int,
        *,
        hidden_dim: int,
        num_layers: int,
        cell: Literal["lstm", "gru"] = "lstm",
        bidirectional: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layer = nn.LSTM if cell == "lstm" else nn.GRU
        self.layers = layer(
            in_dim,
            hidden_dim,
            num_layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,
        )
        self.out_dim = hidden_dim * (2 if bidirectional else 1)
        for name, weight in self.layers.named_parameters():
            if "weight_hh" in name:  # one orthogonal block per gate keeps long products stable
                for gate in weight.detach().chunk(4 if cell == "lstm" else 3):
                    nn.init.orthogonal_(gate)
            elif "weight_ih" in name:
                nn.init.xavier_uniform_(weight)
            else:
                nn.init.zeros_(weight)
                if cell == "lstm" and "bias_ih" in name:
                    # the forget gate starts open: Jozefowicz et al. 2015, section 2.2
                    weight.detach()[hidden_dim : 2 * hidden_dim] = 1.0

    def forward(self, sequence: Tensor) -> Tensor:
        return torch.as_tensor(self.layers(sequence)[0])


def groups(model: nn.Module) -> Groups:
    """The state units of each layer and direction; all lose as many, as torch asks for."""
    layers = model.get_submodule("body.layers")
    assert isinstance(layers, nn.LSTM)
    size, prefix, found = layers.hidden_size, "body.layers", []
    directions = ("", "_reverse") if layers.bidirectional else ("",)
    for layer in range(layers.num_layers):
        for number, suffix in enumerate(directions):
            here = f"l{layer}{suffix}"
            places = [
                Place(f"{prefix}.{kind}_{here}", 0, repeats=4)
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            places.append(Place(f"{prefix}.weight_hh_{here}", 1))
            # the two directions lie side by side in what comes next; the later one is cut first,
            # so that this one's offset still counts from the uncut tensor
            if layer + 1 < layers.num_layers:
                after = [f"{prefix}.weight_ih_l{layer + 1}{other}" for other in directions]
            else:
                after = ["head.linear.weight"]
            places += [Place(name, 1, offset=number * size) for name in after]
            found.append(Group(size, tuple(places)))
    found.reverse()
    return found, lambda sizes: {"hidden_dim": sizes[0]}
