"""embed -> body -> head: how each family puts a model together from plain arguments.

What comes in and out is described by the rows of EMBEDS and HEADS; catalog.py has the table of
families and their sizes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modelwright.core.errors import ConfigError
from modelwright.core.signature import TensorSpec
from modelwright.models import cnn, rnn, transformer
from modelwright.models.chain import Model
from modelwright.models.cnn import KERNEL_SIZE, GridBody, ResidualBody, SequenceBody
from modelwright.models.embed import (
    EMBEDS,
    ImageEmbed,
    Normalize,
    Patches,
    ToldEmbed,
    most_places,
)
from modelwright.models.groups import Groups
from modelwright.models.heads import HEADS
from modelwright.models.layers import Convolution
from modelwright.models.pairs import Decoder, EncoderDecoder, memory
from modelwright.models.rnn import GridRecurrentBody, RecurrentBlock, RecurrentBody
from modelwright.models.transformer import EncoderBlock, EncoderBody, Positions, num_heads

Description = Mapping[str, Any]
Specs = tuple[TensorSpec, ...]


class TiedModel(Model):
    """The head also takes the vectors of the embedding."""

    def forward(self, *inputs: Tensor) -> Tensor:
        features, mask = self.embed(*inputs)
        vectors = _vectors(self.embed)
        read = self.body(features, mask)
        return self.head(read, mask, vectors, *inputs)  # type: ignore[no-any-return]


def _vectors(embed: nn.Module) -> Tensor:
    """The table of an embedding of ids."""
    name = "tokens.vectors.weight" if isinstance(embed, ToldEmbed) else "vectors.weight"
    return embed.get_parameter(name)


class Towers(Model):
    """Two models side by side, whose vectors lie in one space: near where they belong together.

    image, ids, as their signatures have them -> (batch, 2, dim): the picture's vector, the text's

    Each has length one, so that their product is a cosine. While training the picture's is longer
    by a learned factor, the inverse of the temperature.
    Source: Radford et al. 2021, arXiv:2103.00020, section 2.3 (the factor starts at 1 / 0.07 and
    is held below 100).
    """

    def __init__(self, image: Model, text: Model) -> None:
        nn.Module.__init__(self)
        self.image, self.text = image, text
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, *inputs: Tensor) -> Tensor:
        image, ids = inputs
        pair = torch.stack([self.image(image), self.text(ids)], dim=1).float()
        # not F.normalize: its norm has no gradient at zero, and becomes several nodes in a graph
        pair = pair * torch.rsqrt(pair.square().sum(-1, keepdim=True) + 1e-12)
        if not self.training:
            return pair
        scale = self.log_scale.exp().clamp_max(100.0)
        return torch.stack([pair[:, 0] * scale, pair[:, 1]], dim=1)


def each_tower(groups: Callable[[nn.Module], Groups]) -> Callable[[nn.Module], Groups]:
    """The groups of a model, or of both its towers with the arguments of each."""

    def found(model: nn.Module) -> Groups:
        if not isinstance(model, Towers):
            return groups(model)
        sides = {name: groups(model.get_submodule(name)) for name in ("image", "text")}
        every = [group.inside(name) for name, (own, _) in sides.items() for group in own]

        def args(sizes: list[int]) -> dict[str, Any]:
            left = iter(sizes)
            return {name: of([next(left) for _ in own]) for name, (own, of) in sides.items()}

        return every, args

    return found


def _model(
    inputs: Description, outputs: Description, embed: nn.Module, body: Any, dropout: float = 0.0,
    plain: bool = False,
) -> Model:  # fmt: skip
    """The three parts; `plain`: what the body gives is not normed, so a head for classes does."""
    if plain:
        inputs = {**inputs, "plain": True}
    tied = outputs["kind"] in ("ranking", "rating")
    if tied:
        inputs = {**inputs, "dim": _vectors(embed).shape[1]}
    head = HEADS[outputs["kind"]].build(outputs, inputs, body.out_dim, dropout)
    return (TiedModel if tied else Model)(embed, body, head)


def _sequence(inputs: Description, dim: int, dropout: float) -> nn.Module:
    """The embedding of anything but images."""
    make = EMBEDS[inputs["kind"]].sequence
    assert make is not None
    return make(inputs, dim, dropout)


def _normalize(inputs: Description) -> Normalize:
    return Normalize(inputs["mean"], inputs["std"])


def _causal(outputs: Description) -> bool:
    return outputs["kind"] in ("next", "ranking", "rating", "actions")


def cnn_image(
    inputs: Description,
    outputs: Description,
    widths: Sequence[int],
    inner: Sequence[int] | None = None,
    dropout: float = 0.0,
    convolution: Convolution = "full",
    block: Literal["basic", "plain"] = "basic",
) -> Model:
    """Stages over pixels, of one block each."""
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
        # a plain block's first convolution sees every place of the stem: four times the work
        stem_width=widths[0] // (4 if block == "plain" else 2) if strides[0] == 2 else None,
        inner=inner,
        convolution=convolution,
        block=block,
    )
    return _model(inputs, outputs, ImageEmbed(_normalize(inputs)), body, dropout)


def cnn_grid(
    inputs: Description,
    outputs: Description,
    widths: Sequence[int],
    depths: Sequence[int],
    inner: Sequence[int] | None = None,
    convolution: Convolution = "full",
) -> Model:
    """Residual stages over pixels, two grids put together."""
    body = GridBody(
        inputs["shape"][0], stride=outputs["stride"], widths=widths, depths=depths,
        out_dim=widths[1], inner=inner, convolution=convolution,
    )  # fmt: skip
    return _model(inputs, outputs, ImageEmbed(_normalize(inputs)), body)


def cnn_sequence(
    inputs: Description,
    outputs: Description,
    dim: int,
    inner: Sequence[int],
    kernel_size: int = KERNEL_SIZE,
    dropout: float = 0.0,
    convolution: Convolution = "full",
) -> Model:
    """Dilated convolutions over time; where all of it is shorter than the kernel, as short.

    Without any, the model is a bag of words, or of runs of characters, as in arXiv:1607.01759.
    """
    if inputs["kind"] == "observation":
        kernel_size = min(kernel_size, inputs["length"])
    plain = (inputs["kind"], outputs["kind"]) == ("text", "classes")
    body = SequenceBody(
        dim, inner=inner, kernel_size=kernel_size, causal=_causal(outputs), dropout=dropout,
        convolution=convolution, norm=not plain,
    )  # fmt: skip
    return _model(inputs, outputs, _sequence(inputs, dim, dropout), body, dropout, plain)


def _patch_side(shape: Sequence[int]) -> int:
    """The divisor of both sides that gives nearest to 7 x 7 patches."""
    height, width = shape[1:]
    fits = [
        side for side in range(1, min(height, width) + 1) if not (height % side or width % side)
    ]
    return min(fits, key=lambda side: abs((height // side) * (width // side) - 49))


def rnn_image(
    inputs: Description,
    outputs: Description,
    embed_dim: int,
    hidden_dim: int,
    num_layers: int,
    dropout: float = 0.0,
    norm: str | None = None,
) -> Model:
    """A recurrence over rows of pixels."""
    channels, _, width = inputs["shape"]
    rows = Patches(channels, (1, width), embed_dim)  # one step of time per row of pixels
    body = RecurrentBody(
        embed_dim, hidden_dim=hidden_dim, num_layers=num_layers, dropout=dropout, norm=norm
    )
    return _model(inputs, outputs, ImageEmbed(_normalize(inputs), rows), body, dropout)


def _places(inputs: Description, outputs: Description, dim: int) -> ImageEmbed:
    """A patch for each place of the head's grid."""
    side = outputs["stride"]
    return ImageEmbed(_normalize(inputs), Patches(inputs["shape"][0], (side, side), dim))


def rnn_grid(
    inputs: Description, outputs: Description, embed_dim: int, hidden_dim: int, num_layers: int,
    norm: str | None = None,
) -> Model:  # fmt: skip
    """Recurrences across and down the patches."""
    body = GridRecurrentBody(
        embed_dim, outputs["grid"], hidden_dim=hidden_dim, num_layers=num_layers, norm=norm
    )
    return _model(inputs, outputs, _places(inputs, outputs, embed_dim), body)


def rnn_sequence(
    inputs: Description,
    outputs: Description,
    embed_dim: int,
    hidden_dim: int,
    num_layers: int,
    dropout: float = 0.0,
    norm: str | None = None,
) -> Model:
    """A recurrence over time, in both directions unless each place may see only the past."""
    body = RecurrentBody(
        embed_dim, hidden_dim=hidden_dim, num_layers=num_layers, dropout=dropout,
        bidirectional=not _causal(outputs), norm=norm,
    )  # fmt: skip
    return _model(inputs, outputs, _sequence(inputs, embed_dim, dropout), body, dropout)


def transformer_image(
    inputs: Description,
    outputs: Description,
    dim: int,
    num_layers: int,
    mlp_dims: Sequence[int] | None = None,
    dropout: float = 0.0,
    **body_args: Any,
) -> Model:
    """Attention among patches; `body_args` as EncoderBody takes them."""
    channels, height, width = inputs["shape"]
    side = _patch_side(inputs["shape"])
    body = EncoderBody(
        dim,
        num_heads=num_heads(dim),
        mlp_dims=mlp_dims or [2 * dim] * num_layers,
        max_len=(height // side) * (width // side),
        dropout=dropout,
        **body_args,
    )
    patches = Patches(channels, (side, side), dim)
    return _model(inputs, outputs, ImageEmbed(_normalize(inputs), patches), body, dropout)


def transformer_grid(
    inputs: Description,
    outputs: Description,
    dim: int,
    num_layers: int,
    mlp_dims: Sequence[int] | None = None,
    **body_args: Any,
) -> Model:
    """Attention among patches, one for each place of the head's grid."""
    body = EncoderBody(
        dim,
        num_heads=num_heads(dim),
        mlp_dims=mlp_dims or [2 * dim] * num_layers,
        max_len=math.prod(outputs["grid"]),
        **body_args,
    )
    return _model(inputs, outputs, _places(inputs, outputs, dim), body)


def transformer_sequence(
    inputs: Description,
    outputs: Description,
    dim: int,
    num_layers: int,
    mlp_dims: Sequence[int] | None = None,
    mlp_ratio: int = 2,
    head_dim: int = 32,
    dropout: float = 0.0,
    positions: Positions = "rotary",
    soft_cap: float = 0.0,
    **body_args: Any,
) -> Model:
    """Attention among places; `body_args` as EncoderBody takes them.

    Args:
        soft_cap: of the next token's logits, TagHead's.
    Raises: ConfigError for a cap on another answer, or for learned positions of rows without bound.
    """
    if soft_cap and outputs["kind"] != "next":
        raise ConfigError(f"soft_cap is of the next token's logits, not of {outputs['kind']!r}")
    body = EncoderBody(
        dim,
        num_heads=max(1, dim // head_dim),
        mlp_dims=mlp_dims or [mlp_ratio * dim] * num_layers,
        max_len=most_places(inputs) if positions == "learned" else 0,
        positions=positions,
        causal=_causal(outputs),
        dropout=dropout,
        **body_args,
    )
    outputs = {**outputs, "soft_cap": soft_cap}
    return _model(inputs, outputs, _sequence(inputs, dim, dropout), body, dropout)


def _pairs(
    inputs: Description, outputs: Description, dim: int, dropout: float,
    body: Any, layers: Sequence[nn.Module], sinusoidal: bool = False,
) -> Model:  # fmt: skip
    head = HEADS[outputs["kind"]].build(outputs, inputs, dim, dropout)
    decoder = Decoder(layers, dim, body.out_dim, dropout, sinusoidal)
    return EncoderDecoder(
        body, decoder, head, dim, outputs["num_classes"], inputs.get("source_vocab_size"), dropout
    )


def cnn_pairs(
    inputs: Description, outputs: Description, dim: int, inner: Sequence[int],
    kernel_size: int = KERNEL_SIZE, dropout: float = 0.0, convolution: Convolution = "full",
) -> Model:  # fmt: skip
    """Convolutions on both sides; the first half of `inner` is the encoder's."""
    half = len(inner) // 2
    body, decoder = (
        SequenceBody(
            dim, inner=own, kernel_size=kernel_size, causal=causal, dropout=dropout,
            convolution=convolution,
        )
        for own, causal in ((inner[:half], False), (inner[half:], True))
    )  # fmt: skip
    return _pairs(inputs, outputs, dim, dropout, body, list(decoder.blocks))


def rnn_pairs(
    inputs: Description, outputs: Description, dim: int, hidden_dim: int, num_layers: int,
    dropout: float = 0.0, norm: str | None = None,
) -> Model:  # fmt: skip
    """Recurrences on both sides, in both directions over the source; the target's always stand
    between norms and skips, so `norm` is of the source's."""
    body = RecurrentBody(
        dim, hidden_dim=hidden_dim, num_layers=num_layers, cell="gru", dropout=dropout, norm=norm
    )
    layers = [RecurrentBlock(dim, hidden_dim, dropout) for _ in range(num_layers)]
    return _pairs(inputs, outputs, dim, dropout, body, layers)


def transformer_pairs(
    inputs: Description, outputs: Description, dim: int, num_layers: int,
    mlp_dims: Sequence[int] | None = None, dropout: float = 0.0, positions: Positions = "rotary",
    **block_args: Any,
) -> Model:  # fmt: skip
    """Attention on both sides; the first half of `mlp_dims` is the encoder's. `block_args` are of
    every EncoderBlock; where the target's look at the source stays as it is.

    Raises: ConfigError for learned positions: what is written has no bound.
    """
    if positions == "learned":
        most_places(inputs)
    mlp_dims = mlp_dims or [2 * dim] * 2 * num_layers
    heads = num_heads(dim)
    body = EncoderBody(
        dim, num_heads=heads, mlp_dims=mlp_dims[:num_layers], positions=positions, dropout=dropout,
        **block_args,
    )  # fmt: skip
    rotary = positions == "rotary"
    layers = [
        EncoderBlock(dim, heads, mlp_dim, dropout, rotary=rotary, causal=True, **block_args)
        for mlp_dim in mlp_dims[num_layers:]
    ]
    return _pairs(inputs, outputs, dim, dropout, body, layers, not rotary)


# what a writing model remembers of its source and carries on, by its head and its arguments
Carries = Callable[[Description, Mapping[str, Any]], tuple[Specs, Specs]]


def cnn_carries(outputs: Description, args: Mapping[str, Any]) -> tuple[Specs, Specs]:
    """Memory and state of a convolution net that writes."""
    if outputs["kind"] == "next":
        return (), cnn.state(args)
    own = args["inner"][len(args["inner"]) // 2 :]
    return memory(args, len(own)), cnn.state({**args, "inner": own})


def rnn_carries(outputs: Description, args: Mapping[str, Any]) -> tuple[Specs, Specs]:
    """Memory and state of a recurrent net that writes."""
    if outputs["kind"] == "next":
        return (), rnn.state(args, "lstm")
    return memory(args, args["num_layers"]), rnn.state(args, "gru")


def transformer_carries(outputs: Description, args: Mapping[str, Any]) -> tuple[Specs, Specs]:
    """Memory and state of a transformer that writes."""
    remembered = () if outputs["kind"] == "next" else memory(args, args["num_layers"])
    return remembered, transformer.state(args)


def by_kind(
    image: Callable[..., Model],
    sequence: Callable[..., Model],
    grid: Callable[..., Model],
    pairs: Callable[..., Model],
) -> Callable[..., Model]:
    """One builder of four: pictures, pictures whose every place has an answer, one sequence to
    another, and a sequence alone; pictures with texts have a tower for each."""

    def build(inputs: Description, outputs: Description, **args: Any) -> Model:
        if inputs["kind"] == "image_text":
            return Towers(
                image(inputs["image"], outputs, **args["image"]),
                sequence(inputs["text"], outputs, **args["text"]),
            )
        pictures = grid if HEADS[outputs["kind"]].grid else image
        builders = {"image": pictures, "pairs": pairs}
        return builders.get(inputs["kind"], sequence)(inputs, outputs, **args)

    return build
