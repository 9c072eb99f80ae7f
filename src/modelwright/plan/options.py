"""What a recipe's options of a family come to for each of its sizes: nothing, in some.

choose.py asks for the sizes that are left.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelwright.core.errors import ConfigError
from modelwright.core.progress import say
from modelwright.models.catalog import ModelSpec
from modelwright.plan import count


def of_effect(
    specs: Sequence[ModelSpec], note: Callable[[str], None] = lambda text: None
) -> list[ModelSpec]:
    """Those that a recipe's options do not change, such as bags of words, go by their plain names;
    those whose heads cannot share keys as asked are told, to `note` too, and left out.

    Raises: ConfigError if there are no others, or for dropout where none of them has any.
    """
    specs = _that_share_keys(_that_hide(specs), note)
    found = [
        plain if spec.separable and count.count(plain) == count.count(spec) else spec
        for spec in specs
        for plain in [replace(spec, args={})]
    ]
    if not any(one.separable for one in found) and any(one.separable for one in specs):
        raise ConfigError(
            f"model.convolution: {found[-1].name} has no convolutions to be separable",
            expected="a size that has some; over texts the larger ones are bags of words",
            repair="leave model.convolution out, or choose another model.size",
        )
    return found


def _that_hide(specs: Sequence[ModelSpec]) -> Sequence[ModelSpec]:
    """All, whose own sizes have dropout too where that is asked for.

    Raises: ConfigError for nets over the grid of a picture, which have none.
    """
    if any("dropout" in one.args and "dropout" not in one.ladder.sizes[one.size] for one in specs):
        raise ConfigError(
            "model.dropout: nets that find boxes have none",
            expected="a task other than detection",
            repair="leave it out; train.augment and train.weight_decay hold such nets back too",
        )
    return specs


def _that_share_keys(specs: Sequence[ModelSpec], note: Callable[[str], None]) -> list[ModelSpec]:
    """Without those whose number of heads model.num_kv_heads does not lower."""
    found, reasons = [], []
    for spec in specs:
        towers = [spec.args, *(spec.args.get(name, {}) for name in ("image", "text"))]
        if any("num_kv_heads" in args for args in towers):
            try:
                of_its_own = replace(spec, args=_without(spec.args, "num_kv_heads"))
                if count.count(spec) == count.count(of_its_own):
                    reasons.append(f"{spec.name} has no more heads than that")
                    continue
            except ConfigError as error:
                reasons.append(f"{spec.name}: {error.what.partition(': ')[2]}")
                continue
        found.append(spec)
    if reasons and not found:
        raise ConfigError(
            f"model.num_kv_heads: {'; '.join(reasons)}",
            expected="a size with several heads of queries for each of keys and values",
            repair="choose a larger model.size, lower model.num_kv_heads, or leave it out",
        )
    for reason in reasons:
        text = f"model.num_kv_heads: {reason}; that size is left out"
        note(text)
        say(f"plan: {text}")
    return found


def _without(args: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Arguments, and those of towers, without one."""
    return {
        key: _without(own, name) if isinstance(own, Mapping) else own
        for key, own in args.items()
        if key != name
    }
