"""MODELS: architecture families. To add one: write a file, add a row here and in ladders.py.

A model is embed -> body -> head (assemble.py). `build` puts one together from plain arguments, the
same that an artifact's manifest keeps, so that a folder can be opened without the recipe.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.core.errors import ConfigError, did_you_mean
from modelwright.core.signature import Signature
from modelwright.models import cnn, rnn, transformer
from modelwright.models.assemble import (
    Carries,
    Description,
    by_kind,
    cnn_carries,
    cnn_grid,
    cnn_image,
    cnn_pairs,
    cnn_sequence,
    each_tower,
    rnn_carries,
    rnn_grid,
    rnn_image,
    rnn_pairs,
    rnn_sequence,
    transformer_carries,
    transformer_grid,
    transformer_image,
    transformer_pairs,
    transformer_sequence,
)
from modelwright.models.carried import Carried
from modelwright.models.chain import MirroredModel, Model
from modelwright.models.embed import EMBEDS, most_places
from modelwright.models.groups import Groups
from modelwright.models.heads import HEADS
from modelwright.models.ladders import LADDERS
from modelwright.models.sizes import Ladder

__all__ = ["MODELS", "Family", "Model", "ModelSpec", "WithAnswers", "build", "fresh_model"]


@dataclass(frozen=True)
class Family:
    """One architecture family: everything that the rest of the product asks about it.

    Args:
        build: (inputs' description, outputs' description, **arguments) -> Model.
        ladders: by kind of input, a row of EMBEDS, or by kind of answer where that asks for more.
        groups: which channels pruning may take out.
        static_int8: whether the runtime has int8 kernels for its layers without state.
        carries: memory and state of models that write, by (outputs' description, arguments).
        lighter: options that make each size smaller and faster, at some cost in training.
    """

    build: Callable[..., Model]
    ladders: dict[str, Ladder]
    groups: Callable[[nn.Module], Groups]
    static_int8: bool = True
    carries: Carries = lambda outputs, args: ((), ())
    lighter: Mapping[str, Any] = field(default_factory=dict)


MODELS: dict[str, Family] = {
    "cnn": Family(
        by_kind(cnn_image, cnn_sequence, cnn_grid, cnn_pairs),
        LADDERS["cnn"],
        each_tower(cnn.groups),
        carries=cnn_carries,
        lighter={"convolution": "separable"},
    ),
    "rnn": Family(
        by_kind(rnn_image, rnn_sequence, rnn_grid, rnn_pairs),
        LADDERS["rnn"],
        each_tower(rnn.groups),
        static_int8=False,
        carries=rnn_carries,
    ),
    "transformer": Family(
        by_kind(transformer_image, transformer_sequence, transformer_grid, transformer_pairs),
        LADDERS["transformer"],
        each_tower(transformer.groups),
        carries=transformer_carries,
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
        return f"{self.family}-{self.size}" + "-separable" * self.separable

    @property
    def separable(self) -> bool:
        """Whether its convolutions are."""
        towers = (self.args, self.args.get("image", {}), self.args.get("text", {}))
        return any(args.get("convolution") == "separable" for args in towers)

    @classmethod
    def asked(
        cls, family: str, size: str, inputs: dict[str, Any], outputs: dict[str, Any],
        options: Mapping[str, Any],
    ) -> "ModelSpec":  # fmt: skip
        """With what a recipe asks of the family beyond its size; of both towers, where there are
        two."""
        towers = ("image", "text") if inputs["kind"] == "image_text" and options else ()
        args = {tower: dict(options) for tower in towers} or dict(options)
        return cls(family, size, inputs, outputs, args)

    def but(self, args: Mapping[str, Any]) -> "ModelSpec":
        """The same with those arguments in place of its own."""
        return replace(self, args=_over(self.args, args))

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the body: the size ladder's, then the spec's own."""
        return _over(self.ladder.sizes[self.size], self.args)

    @property
    def ladder(self) -> Ladder:
        """The family's sizes and training defaults for this kind of answer, or of input.

        Raises: ConfigError for an unknown family.
        """
        if self.family not in MODELS:
            raise ConfigError(
                f"no family {self.family!r}", expected=did_you_mean(self.family, MODELS)
            )
        ladders = MODELS[self.family].ladders
        return ladders.get(self.outputs.get("kind", ""), ladders[self.inputs["kind"]])

    @property
    def training(self) -> dict[str, Any]:
        """Defaults of the recipe's train section for this size."""
        return self.ladder.training(self.size)

    @property
    def signature(self) -> Signature:
        """Names, types and shapes of what goes in and what comes out."""
        head = HEADS[self.outputs["kind"]]
        carries = MODELS[self.family].carries if head.writes else lambda outputs, args: ((), ())
        return Signature(
            EMBEDS[self.inputs["kind"]].inputs(self.inputs), head.outputs(self.outputs),
            *carries(self.outputs, self.arguments),
        )  # fmt: skip

    @property
    def most_places(self) -> int | None:
        """Of a row, padding included, where its places are learned; None where nothing bounds
        them."""
        inputs, args = (one.get("text", one) for one in (self.inputs, self.arguments))
        learned = self.has_time and args.get("positions") == "learned"
        return most_places(inputs) if learned else None

    @property
    def has_time(self) -> bool:
        """Whether rows may differ in length."""
        tensors = EMBEDS[self.inputs["kind"]].inputs(self.inputs)
        return any(tensor.over_time for tensor in tensors)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ModelSpec":
        return cls(**{name: value[name] for name in cls.__dataclass_fields__})


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, `above` where they differ; arguments of a tower are looked at one by one."""
    return {**below, **above} | {
        name: _over(below[name], own)
        for name, own in above.items()
        if isinstance(own, Mapping) and isinstance(below.get(name), Mapping)
    }


def build(spec: ModelSpec) -> Model:
    """A fresh model; its weights follow torch's global random state.

    Raises: ConfigError for an unknown family or size.
    """
    sizes = spec.ladder.sizes
    if spec.size not in sizes:
        raise ConfigError(
            f"no size {spec.size!r} of {spec.family}", expected=did_you_mean(spec.size, sizes)
        )
    args = spec.arguments
    mirror = args.pop("mirror", False)
    model = MODELS[spec.family].build(spec.inputs, spec.outputs, **args)
    return MirroredModel(model.embed, model.body, model.head) if mirror else model


def examples(spec: ModelSpec, number: int, length: int | None = None) -> dict[str, Tensor]:
    """Made-up inputs of the right shapes: noise from a fixed seed, every place real.

    Args:
        number: rows.
        length: places of each row where that is free; the data's typical one when None.
    """
    draw = torch.Generator().manual_seed(0)
    ids = spec.inputs.get("vocab_size", 0)
    sizes = {"source": spec.inputs.get("source_vocab_size", ids)}  # of ids, where a tensor's differ
    length = length or spec.inputs.get("length", 1)
    made = {}
    for tensor in spec.signature.inputs:
        shape = tensor.sizes(number, length)
        dtype = getattr(torch, tensor.dtype)
        if tensor.name == "lengths":
            made[tensor.name] = torch.full(shape, length, dtype=dtype)
        elif dtype.is_floating_point:
            made[tensor.name] = torch.randn(shape, generator=draw, dtype=dtype)
        else:
            low, high = (0, 256) if tensor.dtype == "uint8" else (1, sizes.get(tensor.name, ids))
            made[tensor.name] = torch.randint(low, high, shape, generator=draw, dtype=dtype)
    return made


class WithAnswers(nn.Module):
    """The model as every artifact offers it: inputs by place -> all outputs of its signature."""

    def __init__(self, model: nn.Module, outputs: Description) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return HEADS[self.outputs["kind"]].finish(self.model(*inputs), self.outputs)


class Carrying(WithAnswers):
    """A model that writes, with all that its signature has: inputs and past by place -> outputs,
    memory, present. Without a past it starts afresh, and gives the same."""

    model: Model

    def __init__(self, model: Model, outputs: Description, signature: Signature) -> None:
        super().__init__(model, outputs)
        self.signature = signature

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        number = len(self.signature.inputs)
        memory = self.encode(*inputs[: number - 1])
        return *self.written(inputs[number - 1], memory, inputs[number:]), *memory

    def encode(self, *inputs: Tensor) -> list[Tensor]:
        """The memory of all inputs but the last."""
        found: list[Tensor] = self.model.encode(*inputs)
        return found

    def written(
        self, ids: Tensor, memory: Sequence[Tensor], past: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Outputs and present of the last input alone."""
        carried = Carried(past)
        raw = self.model.decode(ids, memory, carried)
        return *HEADS[self.outputs["kind"]].finish(raw, self.outputs), *carried.present


def count_params(model: nn.Module) -> int:
    """Learned values; buffers, such as running statistics, not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


def fresh_model(spec: ModelSpec, seed: int) -> nn.Module:
    """The model that a seed gives, whatever was drawn before."""
    torch.manual_seed(seed)
    return build(spec)
