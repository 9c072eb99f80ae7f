"""OPTIMIZERS, parameter groups, weight decay, the gradient's norm.

To add an optimizer: a row here, and its name among the recipe's choices (core/recipe.py).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.core.errors import ConfigError
from modelwright.core.recipe import OptimizerName
from modelwright.train.adafactor import Adafactor
from modelwright.train.muon import Muon
from modelwright.train.rounding import Rounding
from modelwright.train.shards import is_cut

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Rule:
    """One optimizer.

    Args:
        make: (parameter groups, learning rate, type of the model's products) -> it.
        state_bytes: what it keeps beside one parameter.
    """

    make: Callable[[Groups, float, torch.dtype], torch.optim.Optimizer]
    state_bytes: Callable[[Tensor], int]


HIDDEN = {"body", "decoder"}  # what a model calls its parts between embedding and head
COUNTER = 4  # bytes of a parameter's number of steps, a float32


def _factored_bytes(parameter: Tensor) -> int:
    """Means over rows and columns in place of a value each; of vectors, all values."""
    if parameter.ndim < 2:
        return COUNTER + parameter.nbytes
    *_, rows, columns = parameter.shape
    return COUNTER + parameter.nbytes // columns + parameter.nbytes // rows


OPTIMIZERS: dict[OptimizerName, Rule] = {
    # Loshchilov, Hutter 2017, arXiv:1711.05101
    "adamw": Rule(
        # fused: one pass over memory; several times the speed of foreach on CPUs
        lambda groups, rate, _: torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), fused=True),
        lambda parameter: COUNTER + 2 * parameter.nbytes,
    ),
    # Sutskever et al. 2013, ICML, section 3 (Nesterov)
    "sgd": Rule(
        lambda groups, rate, _: torch.optim.SGD(
            groups,
            lr=rate,
            momentum=0.9,
            nesterov=True,
            # of pieces torch has no fused step
            fused=not any(is_cut(one) for group in groups for one in group["params"]),
        ),
        lambda parameter: parameter.nbytes,
    ),
    # Shazeer, Stern 2018; train/adafactor.py
    "adafactor": Rule(
        lambda groups, rate, _: Adafactor(groups, rate),
        _factored_bytes,
    ),
    # Jordan et al. 2024; train/muon.py
    "muon": Rule(
        lambda groups, rate, products: Muon(
            groups, rate, products=products if products == torch.bfloat16 else torch.float32
        ),
        lambda parameter: parameter.nbytes,
    ),
}


class Several(torch.optim.Optimizer):
    """Optimizers with parameters of their own, as one: groups and state side by side."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state = self.state
            part.param_groups = [next(groups) for _ in part.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()  # torch has put new objects in place of the old ones


def make_optimizer(
    model: nn.Module,
    name: OptimizerName,
    *,
    learning_rate: float,
    weight_decay: float,
    cautious: bool = False,
    seed: int = 0,
    products: torch.dtype = torch.bfloat16,
) -> torch.optim.Optimizer:
    """An optimizer whose weight decay spares biases, norms and positions.

    Muon moves hidden matrices and filters; embeddings, the head and everything else stay with
    AdamW. Its steps are as large as AdamW's, so that one learning rate serves both.

    Args:
        cautious: see `decay_cautiously`.
        seed: of how weights that are bfloat16 are rounded.
        products: the type of the model's; Muon's are bfloat16 where those are, else float32.
    Raises: ConfigError for Muon where the body has no matrices.
    """
    matrices = [parameter for _, parameter in _matrices(model)]
    kept = {id(parameter) for parameter in matrices}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in kept]
    groups: Groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    if name == "muon":
        ours = hidden_matrices(model)
        if not ours:
            raise ConfigError(
                "train.optimizer: muon moves matrices and filters, and this model's body has none",
                expected="adamw, sgd or adafactor, or a family with linear layers",
            )
        hidden = {id(parameter) for parameter in ours}
        groups[0]["params"] = [p for p in matrices if id(p) not in hidden]
        moved: Groups = [{"params": ours, "weight_decay": weight_decay}]
        muon = OPTIMIZERS["muon"].make(moved, learning_rate, products)
        adamw = OPTIMIZERS["adamw"].make(groups, learning_rate, products)
        optimizer: torch.optim.Optimizer = Several([muon, adamw])
    else:
        optimizer = OPTIMIZERS[name].make(groups, learning_rate, products)
    for group in optimizer.param_groups:
        group["full_decay"] = group["weight_decay"]  # of which a step takes a share
    if cautious:
        decay_cautiously(optimizer)
    if any(parameter.dtype == torch.bfloat16 for parameter in model.parameters()):
        return Rounding(optimizer, model, seed)
    return optimizer


def prepare_step(
    optimizer: torch.optim.Optimizer, step: int, *, learning_rate: float, decay_share: float
) -> None:
    """Tell every group what the step is done with.

    Args:
        decay_share: of each group's weight decay.
    """
    for group in optimizer.param_groups:
        group["lr"], group["at_step"] = learning_rate, step
        decay = "cautious_decay" if "cautious_decay" in group else "weight_decay"
        group[decay] = group["full_decay"] * decay_share


def decay_cautiously(optimizer: torch.optim.Optimizer) -> None:
    """From now on weights shrink only where the step moves them towards zero too.

    Decoupled from the gradient, whatever the optimizer: after a step has moved x by -u, a weight
    with u x > 0 goes down by another (learning rate * weight decay * x). While it is at it, a step
    holds a copy of the weights.

    Source: Chen et al. 2025, arXiv:2510.12402 (cautious weight decay).
    """
    for group in optimizer.param_groups:
        group["cautious_decay"], group["weight_decay"] = group["weight_decay"], 0.0
    before: list[Tensor] = []

    def held() -> list[tuple[Tensor, float]]:
        return [
            (parameter, group["lr"] * group["cautious_decay"])
            for group in optimizer.param_groups
            if group["cautious_decay"]
            for parameter in group["params"]
        ]

    def keep(*_: Any) -> None:
        before.extend(parameter.detach().clone() for parameter, _ in held())

    @torch.no_grad()
    def decay(*_: Any) -> None:
        for (parameter, share), old in zip(held(), before, strict=True):
            parameter.sub_(share * old * ((old - parameter) * old > 0))
        before.clear()

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(decay)


def state_bytes(model: nn.Module, name: OptimizerName) -> int:
    """What the optimizer keeps beside the model, in bytes, from its first step on."""
    moved = {id(one) for one in hidden_matrices(model)} if name == "muon" else set()
    others = OPTIMIZERS["adamw" if name == "muon" else name]
    return sum(
        (OPTIMIZERS["muon"] if id(parameter) in moved else others).state_bytes(parameter)
        for parameter in model.parameters()
        if parameter.requires_grad
    )


def can_hold_back(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `hold_back` reaches all of it: torch's fused steps, and Muon's."""
    return all(hasattr(one, "_step_supports_amp_scaling") for one in _single(optimizer))


def hold_back(optimizer: torch.optim.Optimizer, flag: Tensor | None) -> None:
    """Let coming steps leave weights and moments as they are where the flag is 1; the host need not
    know. None lets all of them pass.

    It is what torch.amp.GradScaler asks of an optimizer, under the same names.
    """
    for one in _single(optimizer):
        one.found_inf = flag  # type: ignore[attr-defined]


def _single(optimizer: torch.optim.Optimizer) -> Sequence[torch.optim.Optimizer]:
    """Those that move weights themselves."""
    inner = optimizer.inner if isinstance(optimizer, Rounding) else optimizer
    return inner.parts if isinstance(inner, Several) else [inner]


def clip_(
    parameters: Iterable[Tensor], max_norm: float,
    total: Callable[[Tensor], Tensor] = lambda one: one,
) -> Tensor:  # fmt: skip
    """Scale the whole gradient down to `max_norm` where it is longer; gives its length before,
    float64 (), which nobody has waited for.

    Of parameters in shards (DTensor) it is the length of the whole, the same in every process. A
    length that is no number scales nothing: who calls sees it, and what made it stays to be found.

    Args:
        max_norm: 0 only measures.
        total: adds to a squared length what other processes have beside it.
    Source: Pascanu et al. 2012, arXiv:1211.5063, section 3.2.
    """
    learned = [parameter for parameter in parameters if parameter.grad is not None]
    length = total(squared_norm(learned)).sqrt()
    if max_norm:
        finite = torch.where(length.isfinite(), length, 0.0).float()
        for part in _by_mesh(learned):
            nn.utils.clip_grads_with_norm_(part, max_norm, finite)
    return length


def squared_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Of their gradients, float64 (); of shards the whole's, the same in every process."""
    norms = []
    for part in _by_mesh(parameters):
        norm = nn.utils.get_total_norm([one.grad for one in part if one.grad is not None])
        norms.append(torch.as_tensor(getattr(norm, "full_tensor", lambda norm=norm: norm)()))
    if not norms:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack(norms).double().square().sum()


def _by_mesh(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """Those that lie alike together: torch takes norms of no others at once."""
    parts: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        parts.setdefault(getattr(parameter, "device_mesh", None), []).append(parameter)
    return list(parts.values())


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon moves: matrices of the body, and of the decoder where there is one, and
    filters over several channels, but for those of the first layer over pixels."""
    return [
        parameter
        for name, parameter in _matrices(model)
        if HIDDEN & (parts := set(name.split(".")))
        and "stem" not in parts
        and (parameter.ndim == 2 or parameter.shape[1] > 1)
    ]


def _matrices(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Weights that take part in products, with their names."""
    return [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and parameter.ndim > 1
        and name.rpartition(".")[2] not in ("positions", "token")
    ]
