"""A device that is pretended: tensors that say they are on it, and whose values a CPU computes.

Code that runs on such tensors takes every branch that it takes on a GPU, and its figures can be
compared with those of a CPU. As on a GPU, an operation on tensors of two devices is an error. What
makes a GPU wait (a value or a tensor that is read back, a shape that depends on values) is noted,
with the line of the package that asked for it.

`torch._subclasses.FakeTensorMode` has no values, so that whatever a value decides ends it; here the
values are real. A CPU-only PyTorch cannot run backward passes on tensors that say `cuda`, so the
device is PyTorch's "private use" one, registered under the name `pretended`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from deepcorrect.distortions import _random
from deepcorrect.runtime import _devices

aten: Any = torch.ops.aten
CPU = torch.device("cpu")
NAME = "pretended"
SOURCE = str(Path(_random.__file__).parents[1])


class _Module:
    """What PyTorch asks of a device, as it asks `torch.cuda`."""

    state = 1
    """What the device's generator was seeded with last."""

    def manual_seed_all(self, seed: int) -> None:
        self.state = seed

    def manual_seed(self, seed: int) -> None:
        self.state = seed

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.tensor(self.state)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        self.state = int(state)

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def _lazy_init(self) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


MODULE = _Module()
backend_registration._setup_privateuseone_for_python_backend(NAME, MODULE)
DEVICE = torch.device(NAME, 0)

MARK = 1 << 63
"""In the seed of a generator: it is one of the pretended device."""

MAY_MIX = {aten.copy_.default, aten._to_copy.default}
"""Operations that take tensors of two devices."""
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
INDEXING |= {aten._index_put_impl_.default}
"""Operations whose indices may be on the CPU."""
AWAITED = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.bincount.default,
    aten._local_scalar_dense.default,
    aten.equal.default,
}
"""Operations for whose result a program on a GPU waits."""


@dataclass
class Watch:
    """What happened on the pretended device.

    Attributes:
        waits: the operations that a GPU would have been waited for, with the line that asked.
        float64: whether the device has float64, which Apple's GPUs do not.
    """

    waits: list[str] = field(default_factory=list)
    float64: bool = True

    def wait(self, what: str) -> None:
        self.waits.append(f"{what} at {_asked_by()}")


WATCH: list[Watch] = []


class OnDevice(Tensor):
    """A tensor of the pretended device."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]
    on_cpu: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> OnDevice:
        if WATCH and not WATCH[-1].float64 and values.dtype == torch.float64:
            raise TypeError(f"{NAME} devices have no float64")
        made = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        made.on_cpu = values
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({self.on_cpu})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            made: Tensor = OnDevice(self.on_cpu.detach().clone())
            parameter = isinstance(self, nn.Parameter)
            memo[id(self)] = (
                nn.Parameter(made, self.requires_grad)
                if parameter
                else made.requires_grad_(self.requires_grad)
            )
        return memo[id(self)]

    def data_ptr(self) -> int:
        return self.on_cpu.data_ptr()

    def tolist(self) -> Any:
        _note("tolist")
        return self.on_cpu.tolist()

    def numpy(self, **given: Any) -> Any:
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy")


class _Mode(TorchDispatchMode):
    """Makes tensors on the pretended device where it is named, and runs operations on them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _note(what: str) -> None:
    if WATCH:
        WATCH[-1].wait(what)


def _asked_by() -> str:
    """The innermost line of the package that is being run."""
    frame: Any = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(SOURCE):
        frame = frame.f_back
    if frame is None:
        return "a test"
    return f"{Path(frame.f_code.co_filename).relative_to(SOURCE)}:{frame.f_code.co_name}"


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    leaves = tree_leaves((args, kwargs))
    here = [each for each in leaves if isinstance(each, OnDevice)]
    device = kwargs.get("device")
    made = bool(here) if device is None else torch.device(device).type == NAME
    if func is aten.copy_.default:
        made = isinstance(args[0], OnDevice)
    _refuse_mixing(func, args, leaves, here)
    if made:
        _refuse_generators(leaves)
    if here and (not made or func in AWAITED or _masks(func, args)):
        _note(str(func))
    given, named = tree_map(_on_cpu, args), tree_map(_on_cpu, kwargs)
    if func is aten._to_copy.default:  # a new tensor, also where both are of the CPU
        named["device"] = CPU
    found = func(*given, **named)
    if not made:
        return found
    found = tree_map(lambda each: OnDevice(each) if isinstance(each, Tensor) else each, found)
    return return_and_correct_aliasing(func, args, kwargs, found) if here else found


def _on_cpu(value: Any) -> Any:
    if isinstance(value, OnDevice):
        return value.on_cpu
    if isinstance(value, torch.device):
        return CPU
    return value


def _refuse_mixing(func: Any, args: Any, leaves: list[Any], here: list[OnDevice]) -> None:
    """Tensors of the CPU may take part as numbers (without dimensions) and as indices."""
    if not here or func in MAY_MIX:
        return
    indexes = func in INDEXING and isinstance(args[0], OnDevice)
    others = tree_leaves(args[2:]) if indexes else leaves
    elsewhere = [e for e in others if isinstance(e, Tensor) and not isinstance(e, OnDevice)]
    if any(each.dim() for each in elsewhere):
        shapes = [tuple(each.shape) for each in elsewhere]
        raise RuntimeError(
            f"{func}: expected all tensors to be on the same device, {NAME}, but those of shape "
            f"{shapes} are on the CPU (asked by {_asked_by()})"
        )


def _refuse_generators(leaves: list[Any]) -> None:
    for each in leaves:
        if isinstance(each, torch.Generator) and not each.initial_seed() & MARK:
            raise RuntimeError(f"expected a {NAME!r} generator, but found one of the CPU")


def _masks(func: Any, args: Any) -> bool:
    """Whether it indexes by a mask, whose number of hits a GPU is asked for."""
    if func not in INDEXING:
        return False
    return any(
        isinstance(each, Tensor) and each.dtype == torch.bool for each in tree_leaves(args[1])
    )


@contextmanager
def pretended_device(*, float64: bool = True, same_numbers: bool = False) -> Iterator[Watch]:
    """In the block, `DEVICE` can be used.

    Args:
        float64: whether it has float64, as CUDA does and MPS does not.
        same_numbers: whether distortions draw the numbers that they draw on a CPU; a GPU draws its
            own.
    """
    watch = Watch(float64=float64)
    plain = _random._source

    def source(seed: int, device: torch.device) -> Any:
        if device.type == "cpu" or same_numbers:
            return plain(seed, CPU)
        return torch.Generator().manual_seed(seed | MARK)

    with pytest.MonkeyPatch.context() as patch, _Mode():
        patch.setattr(_random, "_source", source)
        patch.setattr(_devices, "WITHOUT_FLOAT64", set() if float64 else {NAME})
        WATCH.append(watch)
        lifts = torch._C._only_lift_cpu_tensors()  # so that `torch.tensor(..., device=)` is seen
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            yield watch
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts)
            WATCH.pop()
