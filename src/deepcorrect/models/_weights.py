"""Weights files, which are read safely and loaded only if every tensor fits the network."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from deepcorrect.networks import network_of
from deepcorrect.runtime import InputError, files

RANDOM = "random"
"""The value of `--weights` for an untrained network."""

State = Mapping[str, Tensor]
Rename = Callable[[State, nn.Module], State]
"""Converts the names in a source's older or foreign files to the network's names."""


def load_weights(model: nn.Module, path: Path, rename: Rename | None = None) -> None:
    """Loads a state dict into a network; every tensor of both must have a counterpart.

    Args:
        model: The network, or a `Classifier` around it.
        path: A `.safetensors` or PyTorch file. The state dict may lie under the key `state_dict` or
            `model`, and its names may all begin with `module.`.
        rename: Applied if the file's names are not the network's.

    Raises:
        InputError: The file cannot be read safely, or has the weights of another network.

    Example:
        >>> import pathlib, tempfile, torch
        >>> from deepcorrect.models import load_weights
        >>> saved, network = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "weights.pt")
        ...     torch.save(saved.state_dict(), path)
        ...     load_weights(network, path)
        >>> network.weight.equal(saved.weight)
        True
    """
    network = network_of(model)
    state = _read_state(path)
    own = network.state_dict()
    if rename is not None and state.keys() != own.keys():
        # for another network's file this fails, and the check below names what does not fit
        with contextlib.suppress(KeyError, ValueError, TypeError, AttributeError, RuntimeError):
            state = rename(state, network)
    _check_state(network, state, path)
    given = OrderedDict(state)
    # some layers read older files by this version of the format, which safetensors does not store
    metadata = getattr(state, "_metadata", None) or getattr(own, "_metadata", None)
    if metadata is not None:
        given._metadata = metadata  # pyright: ignore[reportAttributeAccessIssue]
    network.load_state_dict(given)


def in_order(state: State, network: nn.Module) -> State:
    """The tensors under the network's names, in order; unchanged if the shapes do not match so."""
    own = network.state_dict()
    shapes = [tensor.shape for tensor in state.values()]
    if shapes != [tensor.shape for tensor in own.values()]:
        return state
    return dict(zip(own, state.values(), strict=True))


def _read_state(path: Path) -> State:
    if path.suffix == ".safetensors":
        state: Any = files.read_tensors(path)
    else:
        state = files.read_checkpoint(path)
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise InputError(
            f"{path} is not a state dict: it must map parameter names to tensors, "
            f"but holds {_describe(state)}"
        )
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _check_state(network: nn.Module, state: State, path: Path) -> None:
    own = network.state_dict()
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is not in the network" for name in state if name not in own]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, the network's has {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(
            f"{path} holds the weights of another network than this "
            f"{type(network).__name__}: {'; '.join(problems[:3])}{more}"
        )


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            if not isinstance(name, str) or not isinstance(entry, Tensor):
                return f"{type(entry).__name__} under {name!r}"
    return type(value).__name__
