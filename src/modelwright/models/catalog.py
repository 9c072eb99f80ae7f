"""MODELS: architecture families and their size ladders. To add one: write a file, add a row.

A model is embed -> body -> head. `build` puts one together from plain arguments, the same that
an artifact's manifest keeps, so that a folder can be opened without the recipe.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.core.errors import ConfigError, did_you_mean
from modelwright.core.signature import Signature
from modelwright.models import cnn, rnn, transformer
from modelwright.models.cnn import ResidualBody, SequenceBody
from modelwright.models.embed import EMBEDS, ImageEmbed, Normalize, Patches
from modelwright.models.groups import Groups
from modelwright.models.heads import HEADS
from modelwright.models.rnn import RecurrentBody
from modelwright.models.transformer import EncoderBody

Description = Mapping[str, Any]


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


def _model(
    inputs: Description, outputs: Description, embed: nn.Module, body: Any, dropout: float = 0.0
) -> Model:
    head = HEADS[outputs["kind"]].build(outputs, inputs, body.out_dim, dropout)
    return Model(embed, body, head)


def _sequence(inputs: Description, dim: int, dropout: float) -> nn.Module:
    """The embedding of anything but images."""
    make = EMBEDS[inputs["kind"]].sequence
    assert make is not None
    return make(inputs, dim, dropout)


def _normalize(inputs: Description) -> Normalize:
    return Normalize(inputs["mean"], inputs["std"])


def _causal(outputs: Description) -> bool:
    return bool(outputs["kind"] == "next")


def _cnn_image(
    inputs: Description,
    outputs: Description,
    widths: Sequence[int],
    inner: Sequence[int] | None = None,
) -> Model:
    # A thin first layer at full detail, then wide layers on a small grid: they train and run at a
    # higher rate than thin ones on a large grid. Each stage halves the grid while at least 4
    # pixels a side remain; grids below 16 keep their detail in the first one.
    channels, *sides = inputs["shape"]
    side, strides = min(sides), list[int]()
    for stage in range(len(widths)):
        halve = side >= 16 if stage == 0 else (side + 1) // 2 >= 4
        strides.append(2 if halve else 1)
        side = -(-side // strides[-1])
    body = ResidualBody(
        channels,
        widths=widths,
        depths=[1] * len(widths),
        strides=strides,
        stem_width=widths[0] // 2 if strides[0] == 2 else None,
        inner=inner,
    )
    return _model(inputs, outputs, ImageEmbed(_normalize(inputs)), body)


def _cnn(
    inputs: Description,
    outputs: Description,
    dim: int,
    inner: Sequence[int],
    kernel_size: int = 3,
    dropout: float = 0.0,
) -> Model:
    body = SequenceBody(
        dim, inner=inner, kernel_size=kernel_size, causal=_causal(outputs), dropout=dropout
    )
    return _model(inputs, outputs, _sequence(inputs, dim, dropout), body, dropout)


def _patch_side(shape: Sequence[int]) -> int:
    """The divisor of both sides that gives nearest to 7 x 7 patches."""
    height, width = shape[1:]
    fits = [
        side for side in range(1, min(height, width) + 1) if not (height % side or width % side)
    ]
    return min(fits, key=lambda side: abs((height // side) * (width // side) - 49))


def _rnn_image(
    inputs: Description, outputs: Description, embed_dim: int, hidden_dim: int, num_layers: int
) -> Model:
    channels, _, width = inputs["shape"]
    rows = Patches(channels, (1, width), embed_dim)  # one step of time per row of pixels
    body = RecurrentBody(embed_dim, hidden_dim=hidden_dim, num_layers=num_layers)
    return _model(inputs, outputs, ImageEmbed(_normalize(inputs), rows), body)


def _rnn(
    inputs: Description,
    outputs: Description,
    embed_dim: int,
    hidden_dim: int,
    num_layers: int,
    dropout: float = 0.0,
) -> Model:
    body = RecurrentBody(
        embed_dim, hidden_dim=hidden_dim, num_layers=num_layers, dropout=dropout,
        bidirectional=not _causal(outputs),
    )  # fmt: skip
    return _model(inputs, outputs, _sequence(inputs, embed_dim, dropout), body, dropout)


def _transformer_image(
    inputs: Description,
    outputs: Description,
    dim: int,
    num_layers: int,
    mlp_dims: Sequence[int] | None = None,
) -> Model:
    channels, height, width = inputs["shape"]
    side = _patch_side(inputs["shape"])
    body = EncoderBody(
        dim,
        num_heads=max(1, dim // 32),
        mlp_dims=mlp_dims or [2 * dim] * num_layers,
        max_len=(height // side) * (width // side),
        dropout=0.1 if dim >= 128 else 0.0,
    )
    patches = Patches(channels, (side, side), dim)
    return _model(inputs, outputs, ImageEmbed(_normalize(inputs), patches), body)


def _transformer(
    inputs: Description,
    outputs: Description,
    dim: int,
    num_layers: int,
    mlp_dims: Sequence[int] | None = None,
    dropout: float = 0.0,
) -> Model:
    body = EncoderBody(
        dim,
        num_heads=max(1, dim // 32),
        mlp_dims=mlp_dims or [2 * dim] * num_layers,
        positions="rotary",
        causal=_causal(outputs),
        dropout=dropout,
    )
    return _model(inputs, outputs, _sequence(inputs, dim, dropout), body, dropout)


def _by_kind(image: Callable[..., Model], sequence: Callable[..., Model]) -> Callable[..., Model]:
    def build(inputs: Description, outputs: Description, **args: Any) -> Model:
        return (image if inputs["kind"] == "image" else sequence)(inputs, outputs, **args)

    return build


@dataclass(frozen=True)
class Family:
    """One architecture family: everything that the rest of the product asks about it.

    Args:
        build: (inputs' description, outputs' description, **arguments) -> Model.
        sizes: arguments of each size, from tiny to large, over images.
        sequence_sizes: the same over sequences: text, sound, series.
        train: defaults of the recipe's train section; docs/experiments.md has their reasons.
        groups: which channels pruning may take out.
        static_int8: whether the runtime has int8 kernels for its layers without state.
    """

    build: Callable[..., Model]
    sizes: dict[str, dict[str, Any]]
    sequence_sizes: dict[str, dict[str, Any]]
    train: dict[str, Any]
    groups: Callable[[nn.Module], Groups]
    static_int8: bool = True


MODELS: dict[str, Family] = {
    "cnn": Family(
        _by_kind(_cnn_image, _cnn),
        {
            "tiny": {"widths": (8, 16)},
            "small": {"widths": (16, 32, 64)},
            "base": {"widths": (64, 128, 256)},
            "large": {"widths": (128, 256, 512)},
        },
        {
            "tiny": {"dim": 32, "inner": (32,)},
            "small": {"dim": 96, "inner": (128, 128), "dropout": 0.3},
            "base": {"dim": 192, "inner": (256, 256, 256), "dropout": 0.3},
            "large": {"dim": 384, "inner": (512, 512, 512, 512), "dropout": 0.3},
        },
        {"learning_rate": 3e-3, "weight_decay": 0.05, "warmup_steps": 50, "decay": 0.7},
        cnn.groups,
    ),
    "rnn": Family(
        _by_kind(_rnn_image, _rnn),
        {
            "tiny": {"embed_dim": 32, "hidden_dim": 16, "num_layers": 1},
            "small": {"embed_dim": 96, "hidden_dim": 48, "num_layers": 1},
            "base": {"embed_dim": 192, "hidden_dim": 96, "num_layers": 2},
            "large": {"embed_dim": 384, "hidden_dim": 192, "num_layers": 2},
        },
        {
            "tiny": {"embed_dim": 32, "hidden_dim": 16, "num_layers": 1},
            "small": {"embed_dim": 96, "hidden_dim": 64, "num_layers": 1, "dropout": 0.3},
            "base": {"embed_dim": 192, "hidden_dim": 128, "num_layers": 1, "dropout": 0.3},
            "large": {"embed_dim": 384, "hidden_dim": 256, "num_layers": 2, "dropout": 0.3},
        },
        {"learning_rate": 2e-3, "weight_decay": 0.01, "warmup_steps": 50, "decay": 0.5},
        rnn.groups,
        static_int8=False,
    ),
    "transformer": Family(
        _by_kind(_transformer_image, _transformer),
        {
            "tiny": {"dim": 32, "num_layers": 1},
            "small": {"dim": 64, "num_layers": 3},
            "base": {"dim": 128, "num_layers": 4},
            "large": {"dim": 256, "num_layers": 6},
        },
        {
            "tiny": {"dim": 32, "num_layers": 1},
            "small": {"dim": 96, "num_layers": 2, "dropout": 0.2},
            "base": {"dim": 192, "num_layers": 3, "dropout": 0.2},
            "large": {"dim": 384, "num_layers": 4, "dropout": 0.2},
        },
        {"learning_rate": 1e-3, "weight_decay": 0.1, "warmup_steps": 60, "decay": 0.5},
        transformer.groups,
    ),
}


@dataclass(frozen=True)
class ModelSpec:
    """Everything that `build` needs, and nothing that is learned; kept in each manifest.

    Args:
        inputs: kind of the data, a row of EMBEDS, and what the embedding needs to know.
        outputs: kind of the answer, a row of HEADS, and what the head needs to know.
        args: replace those of the size ladder; a pruned model has its own.
    """

    family: str
    size: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    args: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.family}-{self.size}"

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the body: the size ladder's, then the spec's own."""
        row = MODELS[self.family]
        ladder = row.sizes if self.inputs["kind"] == "image" else row.sequence_sizes
        return {**ladder[self.size], **self.args}

    @property
    def signature(self) -> Signature:
        """Names, types and shapes of what goes in and what comes out."""
        return Signature(
            EMBEDS[self.inputs["kind"]].inputs(self.inputs),
            HEADS[self.outputs["kind"]].outputs(self.outputs),
        )

    @property
    def has_time(self) -> bool:
        """Whether rows may differ in length."""
        tensors = EMBEDS[self.inputs["kind"]].inputs(self.inputs)
        return any("time" in tensor.shape for tensor in tensors)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ModelSpec":
        return cls(**{name: value[name] for name in cls.__dataclass_fields__})


def build(spec: ModelSpec) -> Model:
    """A fresh model; its weights follow torch's global random state.

    Raises: ConfigError for an unknown family or size.
    """
    if spec.family not in MODELS:
        raise ConfigError(f"no family {spec.family!r}", expected=did_you_mean(spec.family, MODELS))
    family = MODELS[spec.family]
    if spec.size not in family.sizes:
        raise ConfigError(
            f"no size {spec.size!r} of {spec.family}",
            expected=did_you_mean(spec.size, family.sizes),
        )
    return family.build(spec.inputs, spec.outputs, **spec.arguments)


def examples(spec: ModelSpec, number: int, length: int | None = None) -> dict[str, Tensor]:
    """Made-up inputs of the right shapes: noise from a fixed seed, every place real.

    Args:
        number: rows.
        length: places of each row where that is free; the data's typical one when None.
    """
    draw = torch.Generator().manual_seed(0)
    length = length or spec.inputs.get("length", 1)
    made = {}
    for tensor in spec.signature.inputs:
        sizes = {"batch": number, "time": length}
        shape = [sizes[size] if isinstance(size, str) else size for size in tensor.shape]
        dtype = getattr(torch, tensor.dtype)
        if tensor.name == "lengths":
            made[tensor.name] = torch.full(shape, length, dtype=dtype)
        elif dtype.is_floating_point:
            made[tensor.name] = torch.randn(shape, generator=draw, dtype=dtype)
        else:
            low, high = (1, spec.inputs["vocab_size"]) if tensor.name == "ids" else (0, 256)
            made[tensor.name] = torch.randint(low, high, shape, generator=draw, dtype=dtype)
    return made


class WithAnswers(nn.Module):
    """The model as every artifact offers it: inputs by place -> all outputs of its signature."""

    def __init__(self, model: nn.Module, outputs: Description) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return HEADS[self.outputs["kind"]].finish(self.model(*inputs), self.outputs)


def count_params(model: nn.Module) -> int:
    """Learned values; buffers, such as running statistics, not counted."""
    return sum(parameter.numel() for parameter in model.parameters())
