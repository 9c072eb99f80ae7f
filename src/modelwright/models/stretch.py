"""A model cut between its blocks, for processes that each hold some of them.

What surrounds the blocks (embedding, positions, norms, head) stays everywhere: it is small, parts
of it are used at both ends, and a process that does not need it gets no gradient for it.
"""

from collections.abc import Callable, Container, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.core.errors import ConfigError
from modelwright.models.chain import Model
from modelwright.models.pairs import EncoderDecoder
from modelwright.models.transformer import EncoderBlock, EncoderBody


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """What a model repeats: its layers, as far as they stand in lists."""
    return [
        block
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        for block in module
        if any(True for _ in block.parameters())
    ]


def chain_of(model: nn.Module) -> list[tuple[str, ...]]:
    """The modules of each block, by name, in the order of the computation.

    Raises: ConfigError for a model that is no chain of transformer blocks.
    """
    pairs = isinstance(model, EncoderDecoder)
    chain = (pairs or type(model) is Model) and isinstance(model.body, EncoderBody)
    layers = model.decoder.layers if isinstance(model, EncoderDecoder) else ()
    if not chain or not all(isinstance(layer, EncoderBlock) for layer in layers):
        raise ConfigError(
            "train.layout: a pipeline needs a chain of transformer blocks, and this model is none",
            expected="a transformer: encoder, decoder or both",
            repair="use data or sharded instead",
        )
    assert isinstance(model, Model) and isinstance(model.body, EncoderBody)
    if model.body.shares is not None:
        raise ConfigError(
            "train.layout: blocks that look back at the embedding (embed_skip) can't be dealt out",
            expected="a chain of blocks",
            repair="use data, sharded or tensor instead",
        )
    encoder = [(f"body.blocks.{index}",) for index in range(len(model.body.blocks))]
    decoder = [
        (f"decoder.layers.{index}", f"decoder.looks.{index}") for index in range(len(layers))
    ]
    return [*encoder, *decoder]


def keep_blocks(model: nn.Module, kept: Container[int]) -> None:
    """Take out all blocks but those of the given numbers; the model goes by its stretches then."""
    for number, names in enumerate(chain_of(model)):
        if number not in kept:
            for name in names:
                parent, _, index = name.rpartition(".")
                blocks = model.get_submodule(parent)
                assert isinstance(blocks, nn.ModuleList)
                blocks[int(index)] = nn.Identity()
    model.forward = _along


def _along(way: Callable[..., Any], carried: Sequence[Tensor], inputs: Sequence[Tensor]) -> Any:
    """Of a model dealt out: who wraps the model (FSDP) sees every stretch of it begin and end."""
    return way(carried, inputs)


class Stretch(nn.Module):
    """Some of a model's blocks in turn, with what comes before the first and after the last.

    The first takes the model's inputs, every other what the one before gave; the last gives what
    the model gives. All may look at the inputs.

    Args:
        model: `keep_blocks` may have taken the others out.
        begin, end: the numbers of the blocks, in the order of `chain_of`.
        number: of all blocks.
    """

    def __init__(self, model: nn.Module, begin: int, end: int, number: int) -> None:
        super().__init__()
        self.model, self.begin, self.end, self.number = model, begin, end, number
        self.way = self._pairs if isinstance(model, EncoderDecoder) else self._chain

    def forward(self, *carried: Tensor, **inputs: Tensor) -> Any:
        return self.model(self.way, carried, list(inputs.values()))

    def _chain(self, carried: Sequence[Tensor], inputs: Sequence[Tensor]) -> Any:
        model: Any = self.model
        if self.begin == 0:
            features, mask = model.embed(*inputs)
            features, mask = model.body.enter(features, mask)
        else:
            features, mask = carried[0], carried[1] if len(carried) > 1 else None
        for index in range(self.begin, self.end):
            features = model.body.blocks[index](features, mask)
        if self.end < self.number:
            return features if mask is None else (features, mask)
        return model.head(model.body.norm(features), mask, *inputs)

    def _pairs(self, carried: Sequence[Tensor], inputs: Sequence[Tensor]) -> Any:
        model: Any = self.model
        source, target = inputs
        mask, encoder = source != 0, len(model.body.blocks)
        if self.begin == 0:
            words = model.embed if model.source_words is None else model.source_words
            features, _ = model.body.enter(model.dropout(words(source)))
            memory = None
        else:
            features, memory = carried[0], carried[1] if len(carried) > 1 else None
        for index in range(self.begin, self.end):
            if index < encoder:
                features = model.body.blocks[index](features, mask)
                continue
            if memory is None:
                memory, features = self._between(features, target)
            features = self._look(index - encoder, features, memory, mask)
        if self.end < self.number:
            return features if memory is None else (features, memory)
        return model.head(model.dropout(model.decoder.norm(features)), model.embed.weight)

    def _between(self, features: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's end and the decoder's begin."""
        model: Any = self.model
        memory = model.dropout(model.body.norm(features))
        return memory, model.decoder.enter(model.dropout(model.embed(target)))

    def _look(self, index: int, features: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        model: Any = self.model
        layer, look = model.decoder.layers[index], model.decoder.looks[index]
        key, value = look.remember(memory)

        def there(sequence: Tensor) -> Tensor:
            return torch.as_tensor(look(sequence, key, value, mask))

        return torch.as_tensor(layer(features, None, None, there))
