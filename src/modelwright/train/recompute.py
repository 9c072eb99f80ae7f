"""Activations that are computed again on the way back instead of being kept.

Sources: Chen et al. 2016, arXiv:1604.06174 (blocks); Korthikanti et al. 2022, arXiv:2205.05198,
section 5 (what is cheap to compute again).
"""

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from modelwright.core.errors import ConfigError
from modelwright.core.recipe import Recompute
from modelwright.models.layers import has_batch_norms
from modelwright.models.stretch import blocks_of

_aten = torch.ops.aten
# products: most of a block's time; what lies between them is most of its memory
KEPT = (
    _aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default,
    _aten.linear.default, _aten.convolution.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_mm.default,
)  # fmt: skip


def recompute_blocks(model: nn.Module, how: Recompute) -> None:
    """Let each block keep only what comes in, and of `selective` the results of its products, and
    compute the rest again on the way back.

    Raises: ConfigError for a model without blocks, or with batch norms, which would count twice.
    """
    if how == "none":
        return
    blocks = blocks_of(model)
    norms = has_batch_norms(model)
    if norms or not blocks:
        raise ConfigError(
            "train.activation_checkpointing: "
            + ("batch norms would count every row twice" if norms else "the model has no blocks"),
            expected="a chain of blocks without batch norms",
            repair="leave it out; a smaller train.micro_batch_size also saves memory",
        )
    keys: dict[str, Any] = {}
    if how == "selective":
        keys["context_fn"] = functools.partial(create_selective_checkpoint_contexts, list(KEPT))
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, **keys)
