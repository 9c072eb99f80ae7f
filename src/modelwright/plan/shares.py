"""What one of several processes has of a training, known before anything is spent.

A copy of the model without data is laid on the layout: what can't be is refused here, and what lies
on the first process is counted. That one has the most: the first blocks of a pipeline, the looks at
valid, the best weights so far.
Sources of the bytes that travel: Rajbhandari et al. 2020, arXiv:1910.02054, section 7 (shards);
Shoeybi et al. 2019, arXiv:1909.08053, section 3 (tensor).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from modelwright.core.errors import ConfigError
from modelwright.core.recipe import Layout, Recipe
from modelwright.models.catalog import ModelSpec, build, examples
from modelwright.models.stretch import blocks_of
from modelwright.tasks.catalog import TASKS
from modelwright.train.buckets import BUCKET_BYTES
from modelwright.train.catalog import way_of
from modelwright.train.parallel import World, require_fit
from modelwright.train.pipes import PIECES, pieces_of
from modelwright.train.settings import Settings, fill_in, training_budget
from modelwright.train.shards import local


@dataclass(frozen=True)
class Share:
    """The first process's.

    rows: of a step's batch; pass_rows: of these, those that it can have on the way at once.
    weights: part of the model's bytes.
    work: part of what its rows cost to compute, idle time of a pipeline included.
    copies: of the whole model beside it, to judge and to write.
    buffers: bytes in which parameters and gradients are put together.
    played: bytes of earlier turns that an algorithm learns from.
    sent_bytes: of parameters and gradients, in a step, to one neighbour.
    """

    rows: int
    pass_rows: int
    weights: float = 1.0
    work: float = 1.0
    copies: int = 0
    buffers: int = 0
    played: int = 0
    sent_bytes: int = 0

    def alone(self, settings: Settings) -> Settings:
        """Those with which one process computes as much as here."""
        most = min(self.rows, settings.micro_batch_size)
        pass_rows = next(one for one in range(most, 0, -1) if self.rows % one == 0)
        return replace(settings, batch_size=self.rows, micro_batch_size=pass_rows)


def shares_of(
    specs: Sequence[ModelSpec], recipe: Recipe, world: World
) -> list[tuple[ModelSpec, Share | ConfigError]]:
    """Each architecture with its share, or why the processes can't train it.

    Raises: ConfigError with every refusal if there is nothing else.
    """
    found: list[tuple[ModelSpec, Share | ConfigError]] = []
    for spec in specs:
        settings = fill_in(recipe.train, spec, "32-true", training_budget(recipe))
        try:
            found.append((spec, _share(spec, recipe.task, settings, world)))
        except ConfigError as error:
            found.append((spec, error))
    refusals = [one for _, one in found if isinstance(one, ConfigError)]
    if len(refusals) == len(found):
        raise together(refusals)
    return found


def together(refusals: Sequence[ConfigError]) -> ConfigError:
    """Every reason once, with the last one's repair."""
    reasons = dict.fromkeys(one.what for one in refusals)
    last = refusals[-1]
    return ConfigError("; ".join(reasons), expected=last.expected, repair=last.repair)


def _share(spec: ModelSpec, task: str, settings: Settings, world: World) -> Share:
    """
    Raises: ConfigError for a task, a batch or a model that the layout does not take.
    """
    require_fit(world.layout, task, settings.batch_size, settings.first_parts)
    rows = settings.batch_size // world.layout.readers
    if world.size == 1:
        return Share(rows, rows, played=_played(spec, settings) if TASKS[task].acting else 0)
    with torch.device("meta"):
        model = build(spec)
    whole = _bytes(model)
    blocks = max((_bytes(block) for block in blocks_of(model)), default=0)
    apart = sum(_bytes(block) for block in blocks_of(model))
    world.sketch(model)
    own, layout = _bytes(model), world.layout
    if layout.sharded > 1:  # what belongs to no block stays whole through a step; one block comes
        gathered = (whole - apart + 2 * blocks) // (layout.tensor * layout.pipeline)
        buffers = 2 * gathered  # weights, and their gradients
    else:
        buffers = min(BUCKET_BYTES, own) if world.copies > 1 else 0
    # of a pipeline's pieces as many are under way as it has processes, each in its own blocks
    pieces = PIECES * layout.pipeline if layout.pipeline > 1 else 1
    if layout.pipeline > 1:
        pieces_of(rows, min(settings.micro_batch_size, -(-rows // pieces)), layout)
    return Share(
        rows,
        -(-rows // (pieces * layout.context)),  # parts of rows, counted as whole ones
        weights=own / whole,
        work=_idle(layout) / (layout.tensor * layout.pipeline * layout.context),
        copies=1,
        buffers=buffers,
        sent_bytes=_sent(layout, own),
    )


def _played(spec: ModelSpec, settings: Settings) -> int:
    (seen,) = examples(spec, 1).values()
    return way_of(settings).kept_bytes(seen.shape[1:])


def _sent(layout: Layout, own: int) -> int:
    """Gradients around a ring of those with the same weights; of shards also the weights, for the
    way there and the way back."""
    sharded, copies = layout.sharded, layout.data * layout.context
    shards = 3 * (sharded - 1) * own
    return shards + round(2 * (copies - 1) / copies * own)


def _idle(layout: Layout) -> float:
    """Time of a pipeline over the time of its work: it fills and empties once a step, with shorter
    stretches sooner (arXiv:2104.04473, section 2.2)."""
    pieces = PIECES * layout.pipeline
    return (pieces + (layout.pipeline - 1) / layout.virtual_pipeline) / pieces


def _bytes(model: nn.Module) -> int:
    """What lies on this process."""
    return sum(local(value).nbytes for value in model.state_dict().values())
