"""MODELS: architecture families and their size ladders. To add one: write a file, add a row.

A model is embed -> body -> head. `build` puts one together from plain arguments, the same that
an artifact's manifest keeps, so that a folder can be opened without the recipe.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from modelwright.core.errors import ConfigError, did_you_mean
from modelwright.models import cnn, rnn, transformer
from modelwright.models.cnn import ResidualBody
from modelwright.models.embed import Normalize, Patches
from modelwright.models.groups import Groups
from modelwright.models.heads import ClassHead
from modelwright.models.rnn import RecurrentBody
from modelwright.models.transformer import EncoderBody

Shape = tuple[int, int, int]


class Model(nn.Module):
    """embed -> body -> head over uint8 images.

    images: (batch, channels, height, width) -> logits (batch, num_classes)
    """

    def __init__(self, embed: nn.Module, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.embed, self.body, self.head = embed, body, head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.embed(images)))  # type: ignore[no-any-return]


def _cnn(
    shape: Shape,
    normalize: Normalize,
    num_classes: int,
    widths: Sequence[int],
    inner: Sequence[int] | None = None,
) -> Model:
    # A thin first layer at full detail, then wide layers on a small grid: they train and run at a
    # higher rate than thin ones on a large grid. Each stage halves the grid while at least 4
    # pixels a side remain; grids below 16 keep their detail in the first one.
    side, strides = min(shape[1:]), list[int]()
    for stage in range(len(widths)):
        halve = side >= 16 if stage == 0 else (side + 1) // 2 >= 4
        strides.append(2 if halve else 1)
        side = -(-side // strides[-1])
    body = ResidualBody(
        shape[0],
        widths=widths,
        depths=[1] * len(widths),
        strides=strides,
        stem_width=widths[0] // 2 if strides[0] == 2 else None,
        inner=inner,
    )
    return Model(normalize, body, ClassHead(body.out_dim, num_classes))


def _patch_side(shape: Shape) -> int:
    """The divisor of both sides that gives nearest to 7 x 7 patches."""
    height, width = shape[1:]
    fits = [
        side for side in range(1, min(height, width) + 1) if not (height % side or width % side)
    ]
    return min(fits, key=lambda side: abs((height // side) * (width // side) - 49))


def _rnn(
    shape: Shape,
    normalize: Normalize,
    num_classes: int,
    embed_dim: int,
    hidden_dim: int,
    num_layers: int,
) -> Model:
    channels, _, width = shape
    rows = Patches(channels, (1, width), embed_dim)  # one step of time per row of pixels
    body = RecurrentBody(embed_dim, hidden_dim=hidden_dim, num_layers=num_layers)
    return Model(nn.Sequential(normalize, rows), body, ClassHead(body.out_dim, num_classes))


def _transformer(
    shape: Shape,
    normalize: Normalize,
    num_classes: int,
    dim: int,
    num_layers: int,
    mlp_dims: Sequence[int] | None = None,
) -> Model:
    channels, height, width = shape
    side = _patch_side(shape)
    body = EncoderBody(
        dim,
        num_heads=max(1, dim // 32),
        mlp_dims=mlp_dims or [2 * dim] * num_layers,
        max_len=(height // side) * (width // side),
        dropout=0.1 if dim >= 128 else 0.0,
    )
    patches = Patches(channels, (side, side), dim)
    return Model(nn.Sequential(normalize, patches), body, ClassHead(dim, num_classes))


@dataclass(frozen=True)
class Family:
    """One architecture family: everything that the rest of the product asks about it.

    Args:
        build: (input shape, normalize, num_classes, **arguments) -> Model.
        sizes: arguments of each size, from tiny to large.
        train: defaults of the recipe's train section; docs/experiments.md has their reasons.
        groups: which channels pruning may take out.
        static_int8: whether the runtime has int8 kernels for its layers without state.
    """

    build: Callable[..., Model]
    sizes: dict[str, dict[str, Any]]
    train: dict[str, Any]
    groups: Callable[[nn.Module], Groups]
    static_int8: bool = True


MODELS: dict[str, Family] = {
    "cnn": Family(
        _cnn,
        {
            "tiny": {"widths": (8, 16)},
            "small": {"widths": (16, 32, 64)},
            "base": {"widths": (64, 128, 256)},
            "large": {"widths": (128, 256, 512)},
        },
        {"learning_rate": 3e-3, "weight_decay": 0.05, "warmup_steps": 50, "decay": 0.7},
        cnn.groups,
    ),
    "rnn": Family(
        _rnn,
        {
            "tiny": {"embed_dim": 32, "hidden_dim": 16, "num_layers": 1},
            "small": {"embed_dim": 96, "hidden_dim": 48, "num_layers": 1},
            "base": {"embed_dim": 192, "hidden_dim": 96, "num_layers": 2},
            "large": {"embed_dim": 384, "hidden_dim": 192, "num_layers": 2},
        },
        {"learning_rate": 2e-3, "weight_decay": 0.01, "warmup_steps": 50, "decay": 0.5},
        rnn.groups,
        static_int8=False,
    ),
    "transformer": Family(
        _transformer,
        {
            "tiny": {"dim": 32, "num_layers": 1},
            "small": {"dim": 64, "num_layers": 3},
            "base": {"dim": 128, "num_layers": 4},
            "large": {"dim": 256, "num_layers": 6},
        },
        {"learning_rate": 1e-3, "weight_decay": 0.1, "warmup_steps": 60, "decay": 0.5},
        transformer.groups,
    ),
}


@dataclass(frozen=True)
class ModelSpec:
    """Everything that `build` needs, and nothing that is learned; kept in each manifest.

    Args:
        input_shape: channels, height, width.
        mean, std: of the train part per channel, on the 0-255 scale.
        args: replace those of the size ladder; a pruned model has its own.
    """

    family: str
    size: str
    input_shape: Shape
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    args: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.family}-{self.size}"

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the body: the size ladder's, then the spec's own."""
        return {**MODELS[self.family].sizes[self.size], **self.args}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ModelSpec":
        fields = {name: value[name] for name in cls.__dataclass_fields__}
        for name in ("input_shape", "mean", "std"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


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
    normalize = Normalize(spec.mean, spec.std)
    return family.build(spec.input_shape, normalize, spec.num_classes, **spec.arguments)


def count_params(model: nn.Module) -> int:
    """Learned values; buffers, such as running statistics, not counted."""
    return sum(parameter.numel() for parameter in model.parameters())
