"""How much memory does a piece of tensor work need at a time, and how many kernels does it start?

    with Watch() as seen:
        ...
    seen.peak_bytes, seen.kernels

Every operation of torch on this thread is seen, those of backward passes included. Watching is
slow: what is timed is not to be watched.
"""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Watch(TorchDispatchMode):
    """Watches the operations inside a `with` block.

    Attributes:
      peak_bytes: the most that tensors made inside it held at a time.
      kernels: operations that compute or copy, each of which an accelerator would be sent as one
        kernel at least; views are not counted.

    Example:
      >>> with Watch() as seen:
      ...     both = torch.ones(1000), torch.ones(500)
      ...     first = both[0][:10]
      >>> seen.peak_bytes, seen.kernels
      (6000, 2)
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = self.kernels = self._now = 0
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run one operation, and note what it made."""
        made = func(*args, **(kwargs or {}))
        returned = [each.alias_info for each in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in returned)
        self.kernels += not is_view
        if not any(returned):
            for tensor in tree_leaves(made):
                if isinstance(tensor, torch.Tensor):
                    self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def freed(_: object) -> None:
            self._alive.pop(key, None)
            self._now -= size

        self._alive[key] = weakref.ref(storage, freed)
        self._now += size
        self.peak_bytes = max(self.peak_bytes, self._now)
