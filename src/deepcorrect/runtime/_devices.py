"""Where networks run and at which precision: device, autocast, inference mode, memory layout."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from deepcorrect.runtime._errors import InputError

Precision = Literal["auto", "float32", "bfloat16"]
"""`auto` is bfloat16 on devices that compute it natively, and float32 on all others."""


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
    """What `auto` means on a device.

    A processor without bfloat16 instructions emulates them ten times slower than it computes
    float32 (measured on an AVX2 processor). `auto` therefore depends on what the device supports.
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
    images = images.to(device, non_blocking=True)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images
