"""Where networks run and at which precision: device, autocast, inference mode, memory layout."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deepcorrect.runtime._errors import InputError

Precision = Literal["auto", "float32", "bfloat16"]
"""`auto` is bfloat16 on devices that compute it natively, and float32 on all others."""

WITHOUT_FLOAT64 = {"mps"}
"""The kinds of device whose tensors cannot be float64."""
MEMORY = 8 << 30
"""The memory, in bytes, that a device is taken to have that does not tell."""


def device_for(name: str | torch.device | None = None) -> torch.device:
    """The named device; without a name, CUDA if it is available, and the CPU otherwise.

    Raises:
        InputError: This machine has no such device.

    Example:
        >>> from deepcorrect.runtime import device_for
        >>> device_for("cpu")
        device(type='cpu')
    """
    if name is None or name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return _own_gpu()
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None and torch.cuda.is_available():
            device = _own_gpu()
        reason = _missing(device)
        if reason is None:
            torch.zeros(1, device=device)
            return device
    except (NotImplementedError, ImportError):
        reason = "this PyTorch does not compute on it"
    except (RuntimeError, AssertionError) as error:  # PyTorch may add many lines of advice
        reason = re.split(r"\.\s|\n", str(error).strip())[0] or type(error).__name__
    raise InputError(f"device {str(name)!r} cannot be used here: {reason}. Accepted: {_usable()}")


def _own_gpu() -> torch.device:
    """Of several processes that a launcher started on a machine, each takes a GPU of its own."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _missing(device: torch.device) -> str | None:
    """Why PyTorch has no such device, in one line; None if it may have it."""
    if device.type == "cuda":
        if not (torch.backends.cuda.is_built() or torch.version.hip):
            return "this PyTorch is built without CUDA"
        if not torch.cuda.is_available():
            return "PyTorch finds no CUDA device and driver on this machine"
        if (device.index or 0) >= torch.cuda.device_count():
            return f"the CUDA devices are numbered from 0 to {torch.cuda.device_count() - 1}"
    if device.type == "mps":
        if not torch.backends.mps.is_built():
            return "this PyTorch is built without MPS, which only Macs have"
        if not torch.backends.mps.is_available():
            return "MPS needs macOS 12.3 or later and a Mac with a supported GPU"
    return "it computes no values" if device.type == "meta" else None


def _usable() -> str:
    """The names of the devices that this machine has."""
    names = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return ", ".join([*names, *(["mps"] if torch.backends.mps.is_available() else []), "auto"])


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter; the CPU for a model without parameters.

    Raises:
        InputError: It is no module, or its parameters have no values.

    Example:
        >>> import torch
        >>> from deepcorrect.runtime import device_of
        >>> device_of(torch.nn.Linear(2, 3))
        device(type='cpu')
    """
    if not isinstance(model, nn.Module):
        raise no_module(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type == "meta":
        raise InputError(
            "the network's parameters have no values (device meta): build it on a device, or call "
            "network.to_empty(device='cpu') and load its weights"
        )
    return device


def no_module(model: object) -> InputError:
    """The error for a network that is no `torch.nn.Module`."""
    return InputError(
        f"the network is a {type(model).__name__}: give a torch.nn.Module, whose forward calls it"
    )


def resolve_precision(device: torch.device, precision: Precision) -> Precision:
    """What `auto` means on a device; any other precision stays as it is.

    A processor without bfloat16 instructions emulates them ten times slower than it computes
    float32 (measured on an AVX2 processor). `auto` therefore depends on what the device supports.

    Raises:
        InputError: bfloat16 is asked for on a Mac whose system does not have it. PyTorch would
            compute in float32.
    """
    if precision == "bfloat16" and device.type == "mps" and not _mps_has_bfloat16():
        raise InputError(
            "precision 'bfloat16' needs macOS 14 or later on device 'mps': use float32 or auto"
        )
    if precision != "auto":
        return precision
    native = False  # on MPS, bfloat16 has not been measured
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.10
        native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return "bfloat16" if native else "float32"


def _mps_has_bfloat16() -> bool:
    return torch.backends.mps.is_macos_or_newer(14, 0)


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Runs the block's convolutions and matrix products at the given precision.

    Example:
        >>> import torch
        >>> from deepcorrect.runtime import autocast
        >>> with autocast(torch.device("cpu"), "bfloat16"):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
    """
    enabled = resolve_precision(device, precision) == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
        yield


@contextmanager
def exact_float32() -> Iterator[None]:
    """Computes float32 in float32 in the block, whatever the program allows elsewhere.

    By default, PyTorch convolves float32 in TF32 on NVIDIA's GPUs, which has 10 bits for the
    fraction of a number: results differ by about 1e-3 where two ways to compute the same are
    compared. `torch.set_float32_matmul_precision` allows the like for products, on CPUs, too.

    Example:
        >>> import torch
        >>> from deepcorrect.runtime import exact_float32
        >>> before = torch.backends.cudnn.allow_tf32
        >>> with exact_float32():
        ...     torch.backends.cudnn.allow_tf32
        False
        >>> torch.backends.cudnn.allow_tf32 == before
        True
    """
    with ExitStack() as stack:
        for read, write, exact in _float32_settings():
            stack.callback(write, read())
            write(exact)
        yield


def _float32_settings() -> list[tuple[Callable[[], Any], Callable[[Any], None], Any]]:
    """PyTorch's settings of float32: how each is read and written, and the value that is exact.

    PyTorch 2.9 has an attribute for each kind of operation. Where a program has set some of them
    apart, PyTorch refuses to read the older settings, and parts of PyTorch that read them fail.
    """
    cudnn: Any = torch.backends.cudnn
    try:
        assert isinstance(cudnn.allow_tf32, bool)
        torch.get_float32_matmul_precision()
    except RuntimeError:
        mkldnn: Any = torch.backends.mkldnn
        owners = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.conv, mkldnn.matmul)
        return [_attribute(owner, "fp32_precision", "ieee") for owner in owners]
    products = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    found = [_attribute(cudnn, "allow_tf32", False), (*products, "highest")]
    if hasattr(torch.backends, "fp32_precision"):  # for all that have no setting of their own
        found.append(_attribute(torch.backends, "fp32_precision", "ieee"))
    return found


def _attribute(
    owner: Any, name: str, exact: Any
) -> tuple[Callable[[], Any], Callable[[Any], None], Any]:
    return partial(getattr, owner, name), partial(setattr, owner, name), exact


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on devices that do not have it (Apple's GPUs).

    Example:
        >>> import torch
        >>> from deepcorrect.runtime import widest_float
        >>> widest_float(torch.device("cpu")), widest_float(torch.device("mps"))
        (torch.float64, torch.float32)
    """
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def widened(values: Tensor) -> Tensor:
    """The values in the widest type of their device (see `widest_float`).

    Example:
        >>> import torch
        >>> from deepcorrect.runtime import widened
        >>> widened(torch.ones(2)).dtype
        torch.float64
    """
    return values.to(widest_float(values.device))


def memory_of(device: torch.device) -> int:
    """The memory of a GPU in bytes, of which others may have taken a part."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return MEMORY


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Puts a model into inference mode (`eval()`) for the block, then restores each module's mode.

    Example:
        >>> import torch
        >>> from deepcorrect.runtime import inference
        >>> model = torch.nn.Dropout()
        >>> with inference(model):
        ...     print(model.training)
        False
        >>> model.training
        True
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for module in modes:  # a corrected network leaves the mode of the network it holds alone
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def to_device(images: Tensor, device: torch.device, *, channels_last: bool = True) -> Tensor:
    """Moves a batch to `device`.

    Args:
        images: N x C x H x W.
        device: The device that the network is on.
        channels_last: Whether to store channels last, the layout in which convolutions are
            fastest.

    Example:
        >>> import torch
        >>> from deepcorrect.runtime import to_device
        >>> images = to_device(torch.zeros(2, 3, 8, 8), torch.device("cpu"))
        >>> images.is_contiguous(memory_format=torch.channels_last)
        True
    """
    # other copies, such as those to the CPU, would be read before they have arrived
    ahead = images.device.type == "cpu" and device.type == "cuda"
    images = images.to(device, non_blocking=ahead)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images
