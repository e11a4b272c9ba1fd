"""Where and how precisely networks run: device, autocast, memory layout."""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from deepcorrect.errors import InputError

Precision = Literal["auto", "float32", "bfloat16"]
"""`auto` is bfloat16 where the device computes it natively, and float32 elsewhere."""


def device_for(name: str | torch.device | None = None) -> torch.device:
    """The named device; without a name, CUDA where there is one, else the CPU.

    Raises:
        InputError: there is no such device here.
    """
    if name is None or name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        # of several processes that a launcher started, each takes a GPU of its own
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(name)!r} cannot be used here: {error}") from None
    return device


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter; the CPU for a model without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def resolve_precision(device: torch.device, precision: Precision) -> Precision:
    """What `auto` means on a device.

    A processor without bfloat16 instructions emulates them, ten times slower than float32
    (measured on an AVX2 processor), so the choice is left to what the device has.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.10
        native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return "bfloat16" if native else "float32"


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Runs the block's convolutions in the given precision."""
    enabled = resolve_precision(device, precision) == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
        yield


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Inference mode for the block: batch norms and dropout fixed; each module's mode restored."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def placed(images: Tensor, device: torch.device, *, channels_last: bool = True) -> Tensor:
    """A batch on `device`; channels last is the layout that convolutions run fastest in."""
    images = images.to(device, non_blocking=True)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")


def side_by_side(
    function: Callable[[Item], Result], items: Iterable[Item], device: torch.device
) -> Iterator[Result]:
    """`function` of each item, in order, without gradients.

    On a CPU each of torch's threads takes items of its own, which for small layers is faster than
    all of them sharing one (measured: 1.1 to 1.2 times with two threads).
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield from map(function, items)
        return
    casting, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def alone(item: Item) -> Result:
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=casting):
            return function(item)

    waiting = deque(_threads(threads).submit(alone, item) for item in items)
    try:
        while waiting:
            yield waiting.popleft().result()
    finally:  # where the caller left, or an item failed
        for future in waiting:
            future.cancel()
        wait(waiting)
        torch.set_num_threads(threads)


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Threads, torch single in each; kept, as it takes a millisecond to start them."""
    return ThreadPoolExecutor(count, initializer=lambda: torch.set_num_threads(1))


os.register_at_fork(after_in_child=_threads.cache_clear)  # a fork has none of them


class PerThread(Generic[Value]):
    """A value of each thread's own, since one network may serve several at once.

    What `torch.compile` traces keeps one for all threads, as the number of a thread would be traced
    as a constant; parts of it that it leaves to Python find that.
    """

    def __init__(self) -> None:
        self._values: dict[int, Value] = {}

    def set(self, value: Value) -> None:
        """Sets this thread's value."""
        self._values[_thread()] = value

    def get(self) -> Value | None:
        """This thread's value, or None."""
        own = self._values.get(_thread())
        return self._values.get(TRACED) if own is None else own

    def clear(self) -> None:
        """Forgets this thread's value."""
        self._values.pop(_thread(), None)


TRACED = 0
"""No thread's number: what stands for all of them where a network is traced."""


def _thread() -> int:
    return TRACED if torch.compiler.is_compiling() else threading.get_ident()
