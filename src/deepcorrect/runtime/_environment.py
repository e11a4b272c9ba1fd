"""The environment of a run: what its figures depend on besides its recipe."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from deepcorrect.runtime._devices import resolve_precision


def environment(device: torch.device) -> dict[str, Any]:
    """The versions, the machine and the device that a run's figures depend on, ready for JSON.

    Example:
        >>> import torch
        >>> from deepcorrect.runtime import environment
        >>> environment(torch.device("cpu"))["device"]
        'cpu'
    """
    packages = (
        "deepcorrect-torch",
        "torch",
        "numpy",
        "pillow",
        "opencv-python-headless",
        "datasets",
        "accelerate",
    )
    values: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds")}
    for package in packages:
        try:
            values[package] = version(package)
        except PackageNotFoundError:
            values[package] = "not installed"
    return values | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "auto_precision": resolve_precision(device, "auto"),
    }
