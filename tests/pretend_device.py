"""A GPU where there is none: arithmetic is the processor's, but every tensor has a device, and mixing them is an error.

What moves between devices is copied, what is computed is where its operands are, and the exceptions are CUDA's: copies,
numbers without a dimension, and indices on the processor. So code that runs here mixes no devices there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MOVES = {"aten::_to_copy", "aten::copy_", "aten::_foreach_copy_"}
INDEXED = {"aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}


class MixedDevicesError(RuntimeError):
    """Operands on two devices."""


class _Places:
    """Which storages are on the pretended device; a weak reference keeps an address from being used again."""

    def __init__(self) -> None:
        self._there: dict[int, StorageWeakRef] = {}

    def of(self, tensor: Tensor) -> torch.device:
        with torch._C.DisableTorchFunction():
            return CUDA if tensor.untyped_storage()._cdata in self._there else CPU

    def put(self, tensor: Tensor, device: torch.device) -> None:
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
            if device.type == "cuda":
                self._there[storage._cdata] = StorageWeakRef(storage)
            else:
                self._there.pop(storage._cdata, None)


class _Operations(TorchDispatchMode):
    def __init__(self, places: _Places) -> None:
        super().__init__()
        self._places = places
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        operands = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
        if name in INDEXED:
            operands = operands[:1] + ([args[2]] if len(args) > 2 else [])
        there = [self._places.of(x) == CUDA for x in operands]
        sized = [place for place, x in zip(there, operands, strict=True) if x.dim()]
        if name not in MOVES and len(set(sized)) > 1:
            raise MixedDevicesError(f"{name} has operands on both devices: {[tuple(x.shape) for x in operands]}")
        result = func(*args, **(kwargs or {}))
        if any(there) and name not in MOVES:
            self.seen += 1
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor):
                    self._places.put(tensor, CUDA)
        return result


def _is_device(value: Any) -> bool:
    return isinstance(value, str | torch.device)


class _Devices(TorchFunctionMode):
    def __init__(self, places: _Places) -> None:
        super().__init__()
        self._places = places

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return self._places.of(args[0])
        if func is Tensor.numpy and self._places.of(args[0]) == CUDA:
            raise TypeError("can't convert a tensor on the pretended device to numpy; copy it to the host first")
        if func is Tensor.cpu:
            return self._moved(args[0], CPU)
        named = [x for x in (*(args if func is Tensor.to else ()), kwargs.get("device")) if _is_device(x)]
        if not named:
            return func(*args, **kwargs)
        if "device" in kwargs:
            kwargs["device"] = CPU
        result = func(*(CPU if _is_device(x) else x for x in args), **kwargs)
        if func is Tensor.to:
            return self._moved(result, torch.device(named[0]), self._places.of(args[0]))
        self._places.put(result, torch.device(named[0]))
        return result

    def _moved(self, tensor: Tensor, device: torch.device, source: torch.device | None = None) -> Tensor:
        if (source or self._places.of(tensor)).type == device.type:
            self._places.put(tensor, device)
            return tensor
        copy = tensor.clone()
        self._places.put(copy, device)
        return copy


@contextmanager
def pretended_cuda() -> Iterator[_Operations]:
    """Within the block the device `cuda` exists; yields a counter of what it computed."""
    places = _Places()
    operations = _Operations(places)
    with _Devices(places), operations:
        yield operations
