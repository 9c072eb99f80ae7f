"""Recurrent nets over sequences: LSTM and GRU, one and two directions.

Source: Hochreiter, Schmidhuber 1997 (LSTM); Cho et al. 2014, arXiv:1406.1078 (GRU).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modelwright.core.signature import TensorSpec
from modelwright.models.carried import Carried, Look, unmoved
from modelwright.models.groups import Group, Groups, Place
from modelwright.models.layers import NORMS, CrossAttention, Dropout


@torch.library.custom_op("modelwright::recur", mutates_args=())
def recur(sequence: Tensor, weights: list[Tensor], cell: str) -> Tensor:
    """One recurrent layer in one direction, from a zero state, as one node of a graph.

    sequence: (batch, time, in_dim); weights: input, state, two biases, as torch orders them
        -> (batch, time, hidden_dim)

    Exporters would fix the length of torch's own operators; export/onnx.py says what this one is.
    """
    zeros = sequence.new_zeros(1, sequence.shape[0], weights[1].shape[1])
    rest = (weights, True, 1, 0.0, False, False, True)
    if cell == "lstm":
        return torch.lstm(sequence, (zeros, zeros), *rest)[0].clone()
    return torch.gru(sequence, zeros, *rest)[0].clone()


@recur.register_fake
def _(sequence: Tensor, weights: list[Tensor], cell: str) -> Tensor:
    return sequence.new_empty(*sequence.shape[:2], weights[1].shape[1])


@torch.library.custom_op("modelwright::carry_on", mutates_args=())
def carry_on(
    sequence: Tensor, past: Tensor, weights: list[Tensor], cell: str
) -> tuple[Tensor, Tensor]:
    """One recurrent layer in one direction, from a given state, as one node of a graph.

    sequence: (batch, time, in_dim); past: (batch, hidden_dim), of an LSTM twice that, both states
    side by side -> (batch, time, hidden_dim), and the state behind the last place
    """
    states = [one[None].contiguous() for one in past.chunk(STATES[cell], 1)]
    rest = (weights, True, 1, 0.0, False, False, True)
    if cell == "lstm":
        found, *last = torch.lstm(sequence, states, *rest)
    else:
        found, *last = torch.gru(sequence, states[0], *rest)
    return found.clone(), torch.cat([one[0] for one in last], 1)


@carry_on.register_fake
def _(sequence: Tensor, past: Tensor, weights: list[Tensor], cell: str) -> tuple[Tensor, Tensor]:
    found = sequence.new_empty(*sequence.shape[:2], weights[1].shape[1])
    return found, past.new_empty(past.shape)


def orthogonal_(square: Tensor) -> None:
    """nn.init.orthogonal_, which does nothing where no values are yet (models/later.py)."""
    basis, upper = torch.linalg.qr(square.new_empty(square.shape).normal_())
    square.copy_(basis * torch.diag(upper).sign())


def _in_bfloat16() -> bool:
    return torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16


STATES = {"lstm": 2, "gru": 1}  # vectors that a cell hands on


class _Masked:
    """What torch's recurrent layers lack: rows of unequal length without packing.

    With a mask and two directions, the backward one starts at each row's last real place, so that
    padding never changes a result. Packed sequences would do it too, but no exporter takes them.
    """

    cell: str

    def forward(
        self: Any, sequence: Tensor, mask: Tensor | None = None, carried: Carried | None = None,
        norms: Sequence[nn.Module] = (),
    ) -> Any:  # fmt: skip
        """`norms`: one behind each layer, or none at all."""
        if sequence.is_cuda and _in_bfloat16():
            # cuDNN's recurrent kernels compute in float16 under autocast, whatever its type
            with torch.autocast("cuda", enabled=False):
                return self.forward(sequence.float(), mask, carried, norms)
        normed: Sequence[Callable[[Tensor], Tensor]] = norms or [lambda value: value] * (
            self.num_layers
        )
        if carried is not None:
            for layer, norm in enumerate(normed):
                weights = self._weights(f"l{layer}")
                sequence, state = carry_on(sequence, carried.take(), weights, self.cell)
                carried.leave(state)
                sequence = norm(sequence)
            return (sequence,)
        if mask is None and not norms:
            return super().forward(sequence)  # type: ignore[misc]
        if mask is None:
            mask = sequence.new_ones(sequence.shape[:2], dtype=torch.bool)
        places = torch.arange(sequence.shape[1], device=sequence.device)
        # real places in reverse, then padding where it is
        turned = torch.where(mask, mask.sum(1, keepdim=True) - 1 - places, places)[..., None]
        for layer, norm in enumerate(normed):
            if layer and self.training:
                sequence = nn.functional.dropout(sequence, self.dropout)
            found = [self._direction(sequence, f"l{layer}")]
            if self.bidirectional:
                order = turned.expand(-1, -1, sequence.shape[2])
                back = self._direction(sequence.gather(1, order), f"l{layer}_reverse")
                found.append(back.gather(1, turned.expand(-1, -1, back.shape[2])))
            sequence = norm(torch.cat(found, dim=-1))
        return (sequence,)

    def _direction(self: Any, sequence: Tensor, suffix: str) -> Tensor:
        """One layer in one direction, with the weights of that suffix."""
        weights = self._weights(suffix)
        if torch.compiler.is_exporting():
            return torch.as_tensor(recur(sequence, weights, self.cell))
        zeros = sequence.new_zeros(1, sequence.shape[0], self.hidden_size)
        rest = (weights, True, 1, 0.0, self.training, False, True)
        if self.cell == "lstm":
            return torch.as_tensor(torch.lstm(sequence, (zeros, zeros), *rest)[0])
        return torch.as_tensor(torch.gru(sequence, zeros, *rest)[0])

    def _weights(self: Any, suffix: str) -> list[Tensor]:
        parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [getattr(self, f"{part}_{suffix}") for part in parts]


class LSTM(_Masked, nn.LSTM):  # type: ignore[misc]  # forward takes less than torch's, on purpose
    """torch's, with a mask."""

    cell = "lstm"


class GRU(_Masked, nn.GRU):  # type: ignore[misc]
    """torch's, with a mask."""

    cell = "gru"


class RecurrentBody(nn.Module):
    """A stack of recurrent layers.

    sequence: (batch, time, in_dim); mask: (batch, time) bool -> (batch, time, out_dim)

    Args:
        hidden_dim: state size of one direction; out_dim is twice that with two directions.
        dropout: between layers, while training.
        norm: a row of NORMS, behind each layer; None for none. What stands in a layer's own cell
            is left as it is, so that every runtime's recurrent operator fits.
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
        norm: str | None = None,
    ) -> None:
        super().__init__()
        layer = LSTM if cell == "lstm" else GRU
        self.layers = layer(
            in_dim,
            hidden_dim,
            num_layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,
        )
        self.out_dim = hidden_dim * (2 if bidirectional else 1)
        norms = [NORMS[norm](self.out_dim) for _ in range(num_layers)] if norm else []
        self.norms = nn.ModuleList(norms)
        for name, weight in self.layers.named_parameters():
            if "weight_hh" in name:  # one orthogonal block per gate keeps long products stable
                for gate in weight.detach().chunk(4 if cell == "lstm" else 3):
                    orthogonal_(gate)
            elif "weight_ih" in name:
                nn.init.xavier_uniform_(weight)
            else:
                nn.init.zeros_(weight)
                if cell == "lstm" and "bias_ih" in name:
                    # the forget gate starts open: Jozefowicz et al. 2015, section 2.2
                    weight.detach()[hidden_dim : 2 * hidden_dim] = 1.0

    def forward(
        self, sequence: Tensor, mask: Tensor | None = None, carried: Carried | None = None
    ) -> Tensor:
        return torch.as_tensor(self.layers(sequence, mask, carried, self.norms)[0])


class RecurrentBlock(nn.Module):
    """A causal recurrence behind a norm and around a skip.

    sequence: (batch, time, dim) -> (batch, time, dim)

    Source: Wu et al. 2016, arXiv:1609.08144, section 3.1 (skips between recurrent layers).
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.body = RecurrentBody(
            dim, hidden_dim=hidden_dim, num_layers=1, cell="gru", bidirectional=False
        )
        self.out = nn.Linear(hidden_dim, dim)
        self.dropout = Dropout(dropout)

    def forward(
        self, sequence: Tensor, mask: Tensor | None = None, carried: Carried | None = None,
        look: Look = unmoved,
    ) -> Tensor:  # fmt: skip
        hidden = self.body(self.norm(sequence), mask, carried)
        return look(sequence + self.dropout(self.out(hidden)))


def state(args: Mapping[str, Any], cell: Literal["lstm", "gru"]) -> tuple[TensorSpec, ...]:
    """The states of every layer that reads in one direction."""
    shape = ("batch", STATES[cell] * args["hidden_dim"])
    return tuple(
        TensorSpec(f"past.{layer}.state", "float32", shape) for layer in range(args["num_layers"])
    )


class GridRecurrentBody(nn.Module):
    """Recurrences across the rows of a grid, then down its columns: each place sees all others.

    sequence: (batch, height * width, in_dim), row by row -> (batch, height * width, out_dim)

    Args:
        hidden_dim: state size of one direction; out_dim is twice that.
        num_layers: pairs of a pass across and one down.
        norm: behind each pass, as RecurrentBody takes it.
    Source: Visin et al. 2015, arXiv:1505.00393 (ReNet).
    """

    def __init__(
        self, in_dim: int, grid: Sequence[int], *, hidden_dim: int, num_layers: int,
        norm: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.grid, self.out_dim = tuple(grid), 2 * hidden_dim
        self.passes = nn.ModuleList(
            RecurrentBody(
                self.out_dim if index else in_dim, hidden_dim=hidden_dim, num_layers=1, norm=norm
            )
            for index in range(2 * num_layers)
        )

    def forward(self, sequence: Tensor, mask: Tensor | None = None) -> Tensor:
        lines, places = self.grid
        for one in self.passes:  # the two sides change places with each pass
            along = one(sequence.reshape(-1, places, sequence.shape[-1]))
            turned = along.reshape(-1, lines, places, self.out_dim).transpose(1, 2)
            sequence, lines, places = turned.flatten(1, 2), places, lines
        return sequence


def groups(model: nn.Module) -> Groups:
    """The state units of each layer and direction; all lose as many, as torch asks for."""
    stacks = [
        (name, one) for name, one in model.named_modules() if isinstance(one, nn.LSTM | nn.GRU)
    ]
    found = []
    for place, (name, layers) in enumerate(stacks):
        (following, *_) = (*(one for one, _ in stacks[place + 1 :]), "")
        found += _layer_groups(model, name, layers, _readers(model, name, following))
    return found, lambda sizes: {"hidden_dim": sizes[0]}


def _readers(model: nn.Module, name: str, following: str) -> list[str]:
    """The weights that a stack's features go into; `following` is the next stack, if any."""
    owner = name.rpartition(".")[0].rpartition(".")[0]
    if isinstance(model.get_submodule(owner), RecurrentBlock):
        return [f"{owner}.out.weight"]
    if (decoder := dict(model.named_children()).get("decoder")) is not None:
        return [
            f"decoder.{inner}.key_value.weight"
            for inner, one in decoder.named_modules()
            if isinstance(one, CrossAttention)
        ]
    if following:  # of passes over a grid, in both directions
        return [f"{following}.weight_ih_l0", f"{following}.weight_ih_l0_reverse"]
    return ["head.linear.weight"]


def _layer_groups(
    model: nn.Module, prefix: str, layers: nn.LSTM | nn.GRU, readers: list[str]
) -> list[Group]:
    """Of one stack; `readers` are the weights that its features go into."""
    size, found, gates = layers.hidden_size, [], 4 if isinstance(layers, nn.LSTM) else 3
    norms = f"{prefix.rpartition('.')[0]}.norms"
    normed = [name for name, _ in model.named_parameters() if name.startswith(f"{norms}.")]
    directions = ("", "_reverse") if layers.bidirectional else ("",)
    for layer in range(layers.num_layers):
        # the two directions lie side by side in what comes next
        after = readers
        if layer + 1 < layers.num_layers:
            after = [f"{prefix}.weight_ih_l{layer + 1}{other}" for other in directions]
        for number, suffix in enumerate(directions):
            here = f"l{layer}{suffix}"
            places = [
                Place(f"{prefix}.{kind}_{here}", 0, repeats=gates)
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            places.append(Place(f"{prefix}.weight_hh_{here}", 1))
            behind = [name for name in normed if name.startswith(f"{norms}.{layer}.")]
            places += [Place(name, 0, offset=number * size) for name in behind]
            width = len(directions) * size
            for name in after:  # a head may read the features more than once: mean and largest
                blocks = range(0, model.get_parameter(name).shape[1], width)
                places += [Place(name, 1, offset=block + number * size) for block in blocks]
            found.append(Group(size, tuple(places)))
    return found
