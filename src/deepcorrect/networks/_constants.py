"""Modules with tensors that follow from their configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class WithConstants(nn.Module):
    """A module with constants: buffers that are no weights and are in no state dict.

    They are set again whenever the module's tensors are moved, because `to_empty` leaves tensors
    without their values, and no state dict brings these back.

    Example:
        >>> import torch
        >>> class Scaled(WithConstants):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.register_constant("scale", torch.tensor([2.0, 3.0]))
        >>> module = Scaled().to("meta").to_empty(device="cpu")
        >>> module.scale, module.state_dict()
        (tensor([2., 3.]), OrderedDict())
    """

    def register_constant(self, name: str, value: Tensor | None) -> None:
        """Registers a constant.

        Args:
            name: The name of the attribute.
            value: The constant, of any shape, type and device; None for an absent one.
        """
        self.register_buffer(name, value, persistent=False)
        if value is not None:
            self.__dict__.setdefault("_constants", {})[name] = value.tolist()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for name, values in self.__dict__.get("_constants", {}).items():
            moved: Any = self._buffers[name]
            self._buffers[name] = torch.tensor(values, dtype=moved.dtype, device=moved.device)
        return self
