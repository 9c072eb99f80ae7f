"""Tensors of several processes summed, as many at once as a message of useful size holds.

Source: Li et al. 2020, arXiv:2006.15704, section 3.2.3.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET_BYTES = 25 * 2**20  # that travel at once; as torch's DDP has it


def sum_together(tensors: Sequence[Tensor], group: dist.ProcessGroup) -> None:
    """Put into each the sum of what every process of the group has there."""
    for bucket in buckets(tensors):
        together = torch.cat([one.reshape(-1) for one in bucket])
        dist.all_reduce(together, group=group)
        begin = 0
        for one in bucket:
            one.copy_(together[begin : begin + one.numel()].view_as(one))
            begin += one.numel()


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """As many together as BUCKET_BYTES hold, of one dtype; in order but for that."""
    bucket: list[Tensor] = []
    size = 0
    for one in sorted(tensors, key=lambda one: str(one.dtype)):
        size += one.nbytes
        if bucket and (size > BUCKET_BYTES or one.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], one.nbytes
        bucket.append(one)
    if bucket:
        yield bucket
