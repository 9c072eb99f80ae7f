"""How many bytes of tensors a process holds at once."""

import weakref

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Held(TorchDispatchMode):
    """Counts memory from when an operation under it gives a tensor in it until it is let go.

    now, most: bytes.
    """

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._there = {}

    def __torch_dispatch__(self, operation, types, given=(), keys=None):
        found = operation(*given, **(keys or {}))
        for one in tree_leaves(found):
            # a DTensor has no memory of its own
            if type(one) in (Tensor, nn.Parameter) and one.device.type == "cpu":
                memory = one.untyped_storage()
                if memory.nbytes() and memory._cdata not in self._there:
                    self._there[memory._cdata] = memory.nbytes()
                    self.now += memory.nbytes()
                    weakref.finalize(memory, self._let_go, memory._cdata)
        self.most = max(self.most, self.now)
        return found

    def _let_go(self, memory):
        self.now -= self._there.pop(memory)
