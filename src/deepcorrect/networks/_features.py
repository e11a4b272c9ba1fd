"""A network's features: the input of its last linear layer, or the output of a named module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.networks._branches import Branches, merge_rows
from deepcorrect.networks._classifier import module_trees, network_of, refuse_torchscript
from deepcorrect.networks._hooks import forward_hooks, forward_pre_hooks
from deepcorrect.runtime import InputError, unknown

Read = Callable[[], Tensor]


@contextmanager
def features(model: nn.Module, site: str | None = None) -> Iterator[Read]:
    """Reads the features of each forward pass while the block runs.

    With a gate, the features of each image come from the branch that computed its logits.

    Args:
        model: A network, wrapped or bare.
        site: The dotted name of a module whose output is read. None reads the input of the linear
            layer that runs last, which in a classifier is the penultimate activations.

    Yields:
        A function that returns the features of the last pass, N x D, with their gradients. Maps,
        N x C x H x W, are averaged over positions.

    Raises:
        InputError: There is no such module, or no linear layer; or (when the function is called)
            the module did not run, its features have another shape, or some images were answered
            by the mean of two networks, see `fit_gate`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
        >>> with features(network) as read, torch.no_grad():
        ...     logits = network(torch.rand(2, 3, 8, 8))
        ...     read().shape
        torch.Size([2, 144])
        >>> with features(network, "0") as read, torch.no_grad():
        ...     logits = network(torch.rand(2, 3, 8, 8))
        ...     read().shape  # maps, averaged over positions
        torch.Size([2, 4])
    """
    refuse_torchscript(model, "asked for its features")
    network, trees = network_of(model), module_trees(model)
    choosers, means = _choosing(model)
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

    def found(names: Iterable[str]) -> dict[str, nn.Module]:
        return {
            f"{number}/{name}": tree[name]
            for number, tree in enumerate(trees)
            for name in names
            if name in tree
        }

    with ExitStack() as stack:
        stack.enter_context(forward_pre_hooks({"": model}, forget))
        stack.enter_context(forward_hooks(choosers, keep_output))
        if site is None:
            linear = [n for n, each in network.named_modules() if isinstance(each, nn.Linear)]
            if not linear:
                raise InputError(
                    "the network has no linear layer whose input could be its features: name a "
                    f"module whose output to read, such as {_last_module(network)!r}"
                )
            stack.enter_context(forward_pre_hooks(found(linear), keep_input))
            name = "the last linear layer's input"
        else:
            if site not in trees[0] or site == "":
                raise unknown("module", site, [known for known in trees[0] if known])
            stack.enter_context(forward_hooks(found([site]), keep_output))
            name = f"the output of {site!r}"

        def read() -> Tensor:
            parts = [
                as_vectors(last[str(number)], name)
                for number in range(len(trees))
                if str(number) in last
            ]
            if not parts:
                raise InputError(f"{name} was not computed in a forward pass: name another module")
            return _of_all_images(parts, last.get("chosen"), means)

        yield read


def _choosing(model: nn.Module) -> tuple[dict[str, nn.Module], bool]:
    """The module that chooses between two branches, as `chosen`, if there is one; and whether the
    images that it does not choose get the mean of both branches' answers."""
    for each in model.modules():
        if isinstance(each, Branches) and each.chooser is not None:
            return {"chosen": each.chooser}, each.means
    return {}, False


def _of_all_images(parts: list[Tensor], chosen: Tensor | None, means: bool) -> Tensor:
    """The features of all images, from those of the chosen ones and of the others, if any chose.

    Raises:
        InputError: Some images were answered by both networks.
    """
    if chosen is None:
        return parts[0]
    if means and not chosen.all():
        raise InputError(
            "images that look clean were answered by the mean of two networks, whose features "
            "differ: read those of either, inside `ungated()` or of the network"
        )
    return parts[0] if len(parts) == 1 else merge_rows(parts[0], parts[1], chosen)


def as_vectors(value: Any, name: str) -> Tensor:
    """Converts a module's input or output to features, N x D.

    Args:
        value: N x D, or N x C x H x W, which is averaged over positions.
        name: A description of the value, used in messages.

    Raises:
        InputError: The value has another shape or is not a tensor.
    """
    if isinstance(value, Tensor) and value.dim() == 4:
        return value.mean((2, 3), dtype=torch.float32)
    if isinstance(value, Tensor) and value.dim() == 2:
        return value
    found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise InputError(
        f"{name} is {found}: features must be N x D, or N x C x H x W, which is averaged over "
        "positions; name another module"
    )


def _last_module(network: nn.Module) -> str:
    """The name of the last module without children, as an example for a message."""
    leaves = [name for name, module in network.named_modules() if not list(module.children())]
    return leaves[-1] if leaves else ""
