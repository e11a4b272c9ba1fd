"""Which network an adapter belongs to: told by what its layers hold, not by what they are called.

The same trained network may come bare, in a `Classifier`, in a wrapper of one's own, in
`DataParallel`, or from another library under other names. What stays are its tensors and what its
layers do with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from deepcorrect.networks._classifier import network_of
from deepcorrect.runtime import InputError

GEOMETRY = ("stride", "padding", "dilation", "groups", "padding_mode", "num_groups", "eps")
"""What a layer does with its tensors, as far as they do not say it."""


def contents(network: nn.Module) -> dict[str, str]:
    """A digest of each module's own floating-point tensors and geometry, by the module's name, in
    module order; modules without such tensors are left out."""
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


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the network's layers: their tensors and geometry, whatever their names.

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
    return _combined(contents(network_of(model)).values())


def find_inside(model: nn.Module, wanted: str, names: Iterable[str] = ()) -> str | None:
    """Where in `model` the network with this fingerprint is: the prefix of its modules' names,
    empty or ending in a dot; None where it is not.

    A wrapper without tensors of its own has the same fingerprint as what is in it: the outermost
    that has modules of all these `names` is taken, or else the innermost.
    """
    network = network_of(model)
    known = contents(network)
    found = []
    for name, _ in network.named_modules():
        prefix = f"{name}." if name else ""
        if _combined(d for at, d in known.items() if at == name or at.startswith(prefix)) == wanted:
            if all(_has(model, f"{prefix}{each}") for each in names):
                return prefix
            found.append(prefix)
    return found[-1] if found else None


def innermost(network: nn.Module) -> nn.Module:
    """The innermost module that holds all of a network's tensors: what wrappers without tensors of
    their own are around, such as one that normalises."""
    while True:
        own = [*network._parameters.values(), *_persistent(network)]
        below = [m for m in network.children() if any(True for _ in m.state_dict(keep_vars=True))]
        if any(tensor is not None for tensor in own) or len(below) != 1:
            return network
        network = below[0]


def _persistent(module: nn.Module) -> list[Tensor | None]:
    """A module's own buffers that are part of its state."""
    names = module._buffers.keys() - module._non_persistent_buffers_set
    return [module._buffers[name] for name in names]


def same_sites(
    model: nn.Module, prefix: str, saved: Mapping[str, str], source: object
) -> dict[str, str]:
    """The names that sites have in this network.

    Args:
        model: where the adapter's network is.
        prefix: of the network's modules.
        saved: what each site's module held when the adapter was saved, by its name then.
        source: of the adapter, for messages.

    Raises:
        InputError: a site cannot be told.
    """
    known = contents(network_of(model))
    own = {name.removeprefix(prefix): d for name, d in known.items() if name.startswith(prefix)}
    names = {name: f"{prefix}{name}" for name in saved}
    if all(saved[name] in ("", own.get(name)) for name in saved) and all(
        _has(model, names[name]) for name in saved
    ):
        return names
    renamed = {}
    for digest in dict.fromkeys(saved.values()):
        before = [name for name, held in saved.items() if held == digest]
        now = [name for name, held in own.items() if held == digest]
        if not digest or len(before) != len(now):
            raise InputError(
                f"the adapter in {source} was made for this network under other names, and its "
                f"site {before[0]!r} cannot be told here: build the network as it was built then"
            )
        renamed |= {old: f"{prefix}{new}" for old, new in zip(before, now, strict=True)}
    return renamed


def fingerprint_by_names(model: nn.Module) -> str:
    """The fingerprint that adapters of schema 1 carry: names count, and geometry does not."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network_of(model).state_dict().items()):
        if tensor.is_floating_point():
            _add(digest, name, tensor)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    value = tensor.detach().cpu().contiguous()
    digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
    digest.update(value.flatten().view(torch.uint8).numpy().tobytes())


def _combined(digests: Iterable[str]) -> str:
    inside: Sequence[str] = sorted(digests)
    return hashlib.sha256("\n".join(inside).encode()).hexdigest()


def _has(model: nn.Module, name: str) -> bool:
    try:
        network_of(model).get_submodule(name)
    except AttributeError:
        return False
    return True
