"""Which numbers are kept and computed in which type; how float16 is kept from losing small ones.

| | weights, gradients | products | moments, averages, buffers |
|---|---|---|---|
| 32-true | float32 | float32 | float32 |
| bf16-mixed | float32 | bfloat16 | float32 |
| bf16-true | bfloat16, vectors float32 | bfloat16 | float32 |
| 16-mixed | float32, the loss scaled | float16 | float32 |
| fp8-mixed | float32 | float8 in linear layers, others bfloat16 | float32 |

What comes out of a training is float32 in each of them.
Source: Micikevicius et al. 2018, arXiv:1710.03740 (mixed precision).
"""

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.core.errors import ConfigError
from modelwright.core.recipe import Precision
from modelwright.train import device as devices

PRODUCTS: dict[Precision, torch.dtype] = {
    "32-true": torch.float32, "bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16,
    "16-mixed": torch.float16, "fp8-mixed": torch.bfloat16,
}  # fmt: skip
# of the loss, until it overflows; and after how many good steps it may be larger again
FIRST_SCALE, LEAST_SCALE, GROWS_AFTER = 2.0**16, 1.0, 2000
CHANGING = ("bf16-true", "fp8-mixed")  # what learns: what comes out is another copy then
FP8_MULTIPLE = 16  # of both sides of a matrix, which the hardware asks for


def autocast(
    precision: Precision, device: str = "cpu"
) -> contextlib.AbstractContextManager[object]:
    """The context of a forward pass: products run in the precision's type; what would suffer, such
    as a softmax, in float32.

    Args:
        device: the type of the device that computes.
    """
    if precision == "32-true":
        return contextlib.nullcontext()
    return torch.autocast(device, PRODUCTS[precision])


def require(precision: Precision, kind: devices.Kind) -> None:
    """
    Raises: ConfigError for a precision that the device can't compute in, or whose extra is missing.
    """
    if precision != "fp8-mixed":
        return
    if not devices.has_fp8(kind):
        where = devices.name_of(kind) if kind == "cuda" else "the CPU"
        raise ConfigError(
            f"train.precision: fp8-mixed needs a GPU that multiplies float8, and {where} does not",
            expected="train.device: cuda with compute capability 8.9 or later, such as Ada, Hopper",
            repair="set train.precision: bf16-mixed, or auto, which times what there is",
        )
    _torchao()


def require_fit(precision: Precision, model: nn.Module, device: str) -> None:
    """
    Raises: ConfigError for a model that can't be computed so on a device of that type.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    if precision == "16-mixed" and device == "cpu" and recurrent:
        raise ConfigError(
            "train.precision: 16-mixed, and few CPUs compute recurrent layers in float16",
            expected="bf16-mixed or 32-true for recurrent layers on a CPU",
            repair="set train.precision: bf16-mixed, or another model.family",
        )
    if precision == "bf16-true" and device == "cuda" and recurrent:
        raise ConfigError(
            "train.precision: bf16-true keeps vectors in float32, and recurrent layers on a GPU "
            "take weights of one type",
            expected="bf16-mixed, 16-mixed or 32-true for recurrent layers on a GPU",
            repair="set train.precision: bf16-mixed, or another model.family",
        )


def lower_weights(model: nn.Module, *, all_of_them: bool = False) -> None:
    """Keep matrices, kernels and embeddings in bfloat16, in place; train/rounding.py moves them.

    Vectors, biases and norms among them, stay float32: they are few, and a norm of bfloat16 by
    float32 has no kernel everywhere.

    Args:
        all_of_them: vectors too, which FSDP2 needs: it takes a block's parameters as one piece.
    """
    for module in model.modules() if all_of_them else ():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.register_forward_pre_hook(_as_the_weights)
    for parameter in model.parameters():
        if all_of_them or parameter.ndim > 1:
            parameter.data = parameter.data.bfloat16()


def _as_the_weights(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weight = module.weight
    return (inputs[0].to(weight.dtype) if isinstance(weight, Tensor) else inputs[0], *inputs[1:])


def to_fp8(model: nn.Module, *, emulated: bool = False) -> int:
    """Let a model's linear layers multiply in float8, in place; gives how many do.

    Each tensor is scaled by its own largest value at each use; weights go as e4m3, gradients as
    e5m2. Names and types of the weights stay. Layers whose sides are no multiples of FP8_MULTIPLE
    stay too.
    Args:
        emulated: on the values of float8, in float32: for tests, where no GPU is.
    Raises: ConfigError if there is no such layer, or the extra is missing.
    Source: Micikevicius et al. 2022, arXiv:2209.05433 (formats); torchao (the products).
    """
    float8 = _torchao()

    def fits(module: nn.Module, name: str) -> bool:
        sides = (module.in_features, module.out_features) if type(module) is nn.Linear else (1,)
        return all(side % FP8_MULTIPLE == 0 for side in sides)

    number = sum(fits(module, name) for name, module in model.named_modules())
    if not number:
        raise ConfigError(
            "train.precision: fp8-mixed, and the model has no linear layer that could use it",
            expected=f"linear layers whose sides are multiples of {FP8_MULTIPLE}",
            repair="set train.precision: bf16-mixed",
        )
    # rows of a batch may come in any number: the products of gradients are padded
    config = float8.Float8LinearConfig(emulate=emulated, pad_inner_dim=True)
    float8.convert_to_float8_training(model, config=config, module_filter_fn=fits)
    return number


def _torchao() -> Any:
    try:
        import torchao.float8
    except ImportError as error:
        raise ConfigError(
            "train.precision: fp8-mixed needs torchao, which is not installed",
            expected="the extra fp8",
            repair="pip install 'modelwright[fp8]'",
        ) from error
    return torchao.float8


class LossScale:
    """What the loss is multiplied by, so that small gradients survive float16.

    An overflow halves it and skips the step; GROWS_AFTER steps without one double it: the rule of
    torch.amp.GradScaler. That one judges each process and optimizer by itself; here the norm of the
    whole gradient judges, which is known anyway and the same in every process.

    Args:
        on: if not, it stays 1.
    factor: a power of two, so that dividing by it is exact.
    skipped: steps so far.
    """

    def __init__(self, on: bool) -> None:
        self.on, self.factor = on, FIRST_SCALE if on else 1.0
        self.skipped, self._good = 0, 0

    def unscale(self, parameters: Iterable[Tensor]) -> None:
        """Divide gradients by it."""
        gradients = [one.grad for one in parameters if one.grad is not None]
        if self.on and gradients:
            torch._foreach_mul_(gradients, 1 / self.factor)

    def overflowed(self, loss: float, norm: float) -> bool:
        """Whether the step has to be skipped for the scale, which then falls; else it may rise.

        A loss that is no number is none of its business, nor a gradient that is none unscaled.
        """
        if not self.on or not math.isfinite(loss):
            return False
        if not math.isfinite(norm) and self.factor > LEAST_SCALE:
            self.factor, self._good, self.skipped = self.factor / 2, 0, self.skipped + 1
            return True
        self.count()
        return False

    def count(self) -> None:
        """A step without an overflow."""
        if not self.on:
            return
        self._good += 1
        if self._good == GROWS_AFTER:
            self.factor, self._good = self.factor * 2, 0

    def observed(self) -> dict[str, float]:
        """What curves show of it."""
        return {"loss_scale": self.factor, "skipped_steps": self.skipped} if self.on else {}

    def position(self) -> list[float]:
        """What a checkpoint has to hold, as plain JSON."""
        return [self.factor, self._good, self.skipped]

    def take_up(self, position: list[float]) -> None:
        """Go on from what `position` gave."""
        self.factor, self._good, self.skipped = position[0], int(position[1]), int(position[2])
