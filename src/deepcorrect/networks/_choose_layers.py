"""Choosing the sites of a network: modules that run once, with maps that affect the answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.networks._classifier import logits_of, ungated
from deepcorrect.networks._hooks import forward_hooks, gradients, require_one_run
from deepcorrect.networks._layers import find
from deepcorrect.networks._layout import layout_of
from deepcorrect.networks._sharing import original
from deepcorrect.runtime import InputError, console


@dataclass(frozen=True)
class _Seen:
    """A module's output in one forward pass.

    Attributes:
        rows: The batch size of the output.
        pixels: The pixels per output map.
        read: The pixels per input map.
        refused: The reason why the output contains no maps, or None.
    """

    rows: int
    pixels: int
    read: int
    refused: InputError | None


def choose(
    model: nn.Module, images: Tensor, names: Iterable[str] | None = None
) -> dict[str, nn.Module]:
    """Chooses the sites to rank or correct, in module order.

    Args:
        model: A network, wrapped or bare, in inference mode.
        images: A few images, N x C x H x W.
        names: The dotted names of the sites. None selects all `candidates` that can be sites. The
            others are reported on standard error: modules that do not run exactly once, whose
            output is not one row of maps per image, that only gate larger maps (from 1 x 1 maps to
            1 x 1 maps, as in squeeze-and-excitation), or whose tokens no later layer reads (such as
            the image's tokens in the last block before a class token).

    Returns:
        The modules of the sites by name.

    Raises:
        InputError: A named site does not run exactly once or has no maps, or no candidate is left.
    """
    found = find(model, names)
    seen = _outputs(model, found, images)
    if names is not None:
        for name in found:
            require_one_run(name, len(seen[name]))
            _refuse_unless_maps(name, seen[name][0], len(images))
        return found
    left_out: dict[str, list[str]] = defaultdict(list)
    order = [name for name in seen if len(seen[name]) == 1]  # as they run
    largest_behind: dict[str, int] = {}
    largest = 0
    for name in reversed(order):
        largest_behind[name] = largest
        largest = max(largest, seen[name][0].pixels)
    for name in found:
        runs = seen[name]
        if len(runs) != 1:
            left_out["run more than once" if runs else "do not run"].append(name)
        elif runs[0].refused or runs[0].rows != len(images):
            left_out["do not give one row of maps an image"].append(name)
        elif runs[0].pixels == runs[0].read == 1 and largest_behind[name] > 1:
            left_out["only gate larger maps"].append(name)
    dropped = {name for group in left_out.values() for name in group}
    kept = [name for name in found if name not in dropped]
    unread = _unread(model, images, [n for n in kept if isinstance(original(found[n]), nn.Linear)])
    left_out["give tokens that no later layer reads"] += unread
    chosen = {name: found[name] for name in kept if name not in unread}
    reasons = [f"{len(group)} {why} ({_some(group)})" for why, group in left_out.items() if group]
    if not chosen:
        raise InputError(f"no module of the network can be a site: {'; '.join(reasons)}")
    if reasons:
        console().print(f"note: not taken as sites: {'; '.join(reasons)}", markup=False)
    return chosen


def _outputs(
    model: nn.Module, modules: dict[str, nn.Module], images: Tensor
) -> dict[str, list[_Seen]]:
    """Each module's outputs, one entry per call, in the order of the modules' first calls."""
    seen: dict[str, list[_Seen]] = defaultdict(list)

    def hook(name: str, module: nn.Module, args: Any, output: Any) -> None:
        read = args[0].shape[2:].numel() if args and isinstance(args[0], Tensor) else 0
        try:
            maps = layout_of(name, module, output).maps(output)
            seen[name].append(_Seen(len(maps), maps.shape[2:].numel(), read, None))
        except InputError as error:
            seen[name].append(_Seen(0, 0, read, error))

    with torch.no_grad(), ungated(model), forward_hooks(modules, hook):
        logits_of(model, images)
    return seen


def _refuse_unless_maps(name: str, seen: _Seen, images: int) -> None:
    if seen.refused:
        raise seen.refused
    if seen.rows != images:
        raise InputError(
            f"site {name!r} returns {seen.rows} rows for {images} images, as a layer inside "
            "windows or patches does: a site must return one row of maps per image"
        )


def _unread(model: nn.Module, images: Tensor, names: list[str]) -> list[str]:
    """The sites whose maps do not affect the answer.

    None is returned if no map at all affects it, as in a network whose last layer is still zero.
    """
    if not names:
        return []
    _, found = gradients(model, images, names, lambda logits: logits.float().exp().sum())
    unread = [name for name in names if not bool(found[name].any())]
    return unread if len(unread) < len(names) else []


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")
