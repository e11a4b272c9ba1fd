"""Loading the tensors of a corrected network that is a part of a larger module."""

from __future__ import annotations

from typing import Any

from torch import nn

from deepcorrect.networks import Wrapper
from deepcorrect.runtime import InputError


class OwnState(Wrapper):
    """A wrapper whose `state_dict` and `load_state_dict` hold and take the tensors of its own.

    A module around it saves and loads these under its own names for them:
    `torch.nn.Module.load_state_dict` calls the method below for each module inside.
    """

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Loads what `state_dict(prefix=prefix)` returned, and leaves all modules inside alone."""
        del strict  # the outermost module asks for missing and unexpected keys
        own = [name for name in state_dict if name.startswith(prefix)]
        given = {name.removeprefix(prefix): state_dict.pop(name) for name in own}
        assign = local_metadata.get("assign_to_params_buffers", False)
        try:
            found = self.load_state_dict(given, strict=False, assign=assign)
        except (InputError, RuntimeError) as error:
            error_msgs.append(str(error))
        else:
            missing_keys += [f"{prefix}{name}" for name in found.missing_keys]
            unexpected_keys += [f"{prefix}{name}" for name in found.unexpected_keys]
        # torch goes on to the modules inside: each gets the tensors that it has
        state_dict |= nn.Module.state_dict(self, prefix=prefix, keep_vars=True)
