"""A network's features: what its last linear layer reads, or what a named module gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.networks._branches import merged
from deepcorrect.networks._classifier import branches_of, network_of, running_modules
from deepcorrect.networks._hooks import forward_hooks, forward_pre_hooks
from deepcorrect.runtime import InputError, unknown

Read = Callable[[], Tensor]


@contextmanager
def features(model: nn.Module, site: str | None = None) -> Iterator[Read]:
    """Reads the features of each forward pass while the block runs.

    Where a gate chooses between two networks, each image's features come from the one that
    answered it.

    Args:
        model: a network, wrapped or bare.
        site: dotted name of a module whose output is read; None takes the input of the linear
            layer that runs last, which in a classifier is the penultimate activations.

    Yields:
        A function that returns the features of the last pass, N x D, with their gradients: vectors
        as they are, maps N x C x H x W averaged over positions.

    Raises:
        InputError: there is no such module, or no linear layer; when read: what was found has
            another shape, or did not run.
    """
    network, branches = network_of(model), branches_of(model)
    trees = {"": running_modules(model)}
    if branches is not None:  # the images that it does not choose run elsewhere
        trees["base"] = branches.base_modules
    last: dict[str, Any] = {}

    def keep_input(tree: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        del module, kwargs
        last[tree.partition("/")[0]] = args[0] if args else None

    def keep_output(tree: str, module: nn.Module, args: Any, output: Any) -> None:
        del module, args
        last[tree.partition("/")[0]] = output

    def forget(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        del name, module, args, kwargs
        last.clear()

    with ExitStack() as stack:
        stack.enter_context(forward_pre_hooks({"": model}, forget))
        if branches is not None and branches.chooser is not None:
            stack.enter_context(forward_hooks({"chosen": branches.chooser}, keep_output))
        if site is None:
            linear = [n for n, each in network.named_modules() if isinstance(each, nn.Linear)]
            if not linear:
                raise InputError(
                    "the network has no linear layer whose input could be its features: name a "
                    f"module whose output to take, such as {_last_module(network)!r}"
                )
            found = {
                f"{t}/{name}": tree[name]
                for t, tree in trees.items()
                for name in linear
                if name in tree
            }
            stack.enter_context(forward_pre_hooks(found, keep_input))
            name = "the last linear layer's input"
        else:
            if site not in trees[""] or site == "":
                raise unknown("module", site, [known for known in trees[""] if known])
            found = {f"{t}/{site}": tree[site] for t, tree in trees.items() if site in tree}
            stack.enter_context(forward_hooks(found, keep_output))
            name = f"the output of {site!r}"

        def read() -> Tensor:
            parts = {tree: as_vectors(last[tree], name) for tree in trees if tree in last}
            if not parts:
                raise InputError(f"{name} did not come up in a forward pass: name another module")
            if len(parts) == 1:
                return next(iter(parts.values()))
            return merged(parts[""], parts["base"], last["chosen"])

        yield read


def as_vectors(value: Any, name: str) -> Tensor:
    """Features N x D of what a module read or gave.

    Raises:
        InputError: it is neither N x D nor N x C x H x W.
    """
    if isinstance(value, Tensor) and value.dim() == 4:
        return value.mean((2, 3), dtype=torch.float32)
    if isinstance(value, Tensor) and value.dim() == 2:
        return value
    given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise InputError(
        f"{name} is {given}: features must be N x D, or N x C x H x W, which is averaged over "
        "positions; name another module"
    )


def _last_module(network: nn.Module) -> str:
    """The last module without modules of its own before the classifier's end, as an example."""
    leaves = [name for name, module in network.named_modules() if not list(module.children())]
    return leaves[-1] if leaves else ""
