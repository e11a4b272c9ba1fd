"""Recognising the network of an adapter by the tensors of its layers, whatever their names.

The same trained network may be bare, in a `Classifier`, in a wrapper of the user's own, in
`DataParallel`, or from another library with other module names. Its tensors and the geometry of its
layers are the same in all of these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from deepcorrect.networks._classifier import network_of
from deepcorrect.runtime import device_of

GEOMETRY = ("stride", "padding", "dilation", "groups", "padding_mode", "num_groups", "eps")
"""Attributes that determine what a layer computes, besides its tensors."""


def layer_digests(network: nn.Module) -> dict[str, str]:
    """The SHA-256 of each module's own floating-point tensors and geometry.

    Args:
        network: A network without our wrappers.

    Returns:
        The digests by module name, in module order. Modules without such tensors are omitted.

    Raises:
        InputError: The tensors have no values (device meta).
    """
    device_of(network)
    found = {}
    for name, module in network.named_modules():
        tensors = {
            key: value
            for key, value in (*module._parameters.items(), *module._buffers.items())
            if value is not None
            and value.is_floating_point()
            and key not in module._non_persistent_buffers_set
        }
        if tensors:
            digest = hashlib.sha256()
            for key, value in sorted(tensors.items()):
                _add(digest, key, value)
            for key in GEOMETRY:
                value = getattr(module, key, None)
                if isinstance(value, int | float | str | tuple):
                    digest.update(f"{key}={value}\n".encode())
            found[name] = digest.hexdigest()
    return found


def site_digest(digests: Mapping[str, str], name: str) -> str:
    """The digest of a module with everything inside it.

    Args:
        digests: The digests of a network's layers, see `layer_digests`.
        name: The module's dotted name.

    Returns:
        The layer's own digest for a layer without others inside; an empty text for a module
        without tensors.
    """
    inside = {at: d for at, d in digests.items() if at == name or at.startswith(f"{name}.")}
    if inside.keys() <= {name}:
        return inside.get(name, "")
    return _combined(inside.values())


def fingerprint(model: nn.Module) -> str:
    """The SHA-256 of a network's layers: their tensors and geometry, whatever their names.

    Args:
        model: A network, wrapped or bare.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 2)
        >>> before = fingerprint(network)
        >>> len(before), fingerprint(torch.nn.Sequential(network)) == before
        (64, True)
        >>> with torch.no_grad():
        ...     _ = network.bias.add_(1)
        >>> fingerprint(network) == before
        False
    """
    return _combined(layer_digests(network_of(model)).values())


def find_subnetwork(model: nn.Module, wanted: str, names: Iterable[str] = ()) -> str | None:
    """Finds the part of a model that has a given fingerprint.

    A wrapper without tensors of its own has the fingerprint of the module inside. Of several
    matches, the outermost that contains modules of all `names` is returned, or else the innermost.

    Args:
        model: A network, wrapped or bare.
        wanted: The fingerprint.
        names: Dotted names of modules, relative to the part.

    Returns:
        The prefix of the part's module names, empty or ending in a dot; None if there is no match.
    """
    network = network_of(model)
    known = layer_digests(network)
    found = []
    for name, _ in network.named_modules():
        prefix = f"{name}." if name else ""
        if _combined(d for at, d in known.items() if at == name or at.startswith(prefix)) == wanted:
            if all(has_module(model, f"{prefix}{each}") for each in names):
                return prefix
            found.append(prefix)
    return found[-1] if found else None


def innermost(network: nn.Module) -> nn.Module:
    """The innermost module that contains all of a network's tensors.

    It is the module inside wrappers without tensors of their own, such as one that normalises. A
    module that keeps all its layers in one `ModuleList` or `ModuleDict` is itself the innermost.
    """
    while True:
        own = [*network._parameters.values(), *_persistent(network)]
        below = [m for m in network.children() if any(True for _ in m.state_dict(keep_vars=True))]
        if any(tensor is not None for tensor in own) or len(below) != 1:
            return network
        if isinstance(below[0], nn.ModuleList | nn.ModuleDict):
            return network  # these are never called
        network = below[0]


def _persistent(module: nn.Module) -> list[Tensor | None]:
    """A module's own buffers that are part of its `state_dict`."""
    names = module._buffers.keys() - module._non_persistent_buffers_set
    return [module._buffers[name] for name in names]


def has_module(model: nn.Module, name: str) -> bool:
    """Whether the network in `model` has a module of this dotted name."""
    try:
        network_of(model).get_submodule(name)
    except AttributeError:
        return False
    return True


def fingerprint_by_names(model: nn.Module) -> str:
    """The fingerprint of adapters with schema version 1: of names and tensors, without geometry."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network_of(model).state_dict().items()):
        if tensor.is_floating_point():
            _add(digest, name, tensor)
    return digest.hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of named tensors.

    Example:
        >>> import torch
        >>> tensors_digest({"a": torch.ones(2)}) == tensors_digest({"a": torch.zeros(2)})
        False
    """
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        _add(digest, name, tensor)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    value = tensor.detach().cpu().contiguous()
    digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
    digest.update(value.flatten().view(torch.uint8).numpy().tobytes())


def _combined(digests: Iterable[str]) -> str:
    inside: Sequence[str] = sorted(digests)
    return hashlib.sha256("\n".join(inside).encode()).hexdigest()
