"""Choosing the sites of a network: modules that run once, with maps that affect the answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from torch import Tensor, nn

from deepcorrect.networks._hooks import gradients, require_one_run
from deepcorrect.networks._layers import find
from deepcorrect.networks._sharing import original
from deepcorrect.networks._site_outputs import outputs_of
from deepcorrect.networks._structure import CHOICES, parse_choice, structure_of
from deepcorrect.runtime import InputError, console


def choose(
    model: nn.Module, images: Tensor, names: Iterable[str] | str | None = None
) -> dict[str, nn.Module]:
    """Chooses the sites to rank or correct, in module order.

    Args:
        model: A network, wrapped or bare, in inference mode.
        images: A few images, N x C x H x W.
        names: The dotted names of the sites; or, as one text, a choice by the network's structure,
            such as `auto` or `stem+sums` (see `CHOICES`). None selects all `candidates`. Those of
            a choice or of None that cannot be sites are left out, and reported on standard error:
            modules that do not run exactly once, whose
            output is not one row of maps per image, that only gate larger maps (from 1 x 1 maps to
            1 x 1 maps, as in squeeze-and-excitation), or whose tokens no later layer reads (such as
            the image's tokens in the last block before a class token).

    Returns:
        The modules of the sites by name.

    Raises:
        InputError: A named site does not run exactly once or has no maps, or no candidate is left.
    """
    named = names is not None and not isinstance(names, str)
    found = find(model, _selected(model, images, names) if isinstance(names, str) else names)
    seen = outputs_of(model, found, images)
    if named:
        for name in found:
            require_one_run(name, len(seen[name]))
            seen[name][0].require_maps(name, len(images))
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
        elif runs[0].refused or runs[0].flat or runs[0].rows != len(images):
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


def _selected(model: nn.Module, images: Tensor, choice: str) -> tuple[str, ...]:
    """The names of the sites of a choice by structure."""
    parse_choice(choice)
    structure = structure_of(model, images)
    found = structure.sites(choice)
    if not found:
        known = [name for name in CHOICES if name != "auto" and structure.sites(name)]
        raise InputError(
            f"the network has no {choice.replace('+', ' and no ')}: choose its "
            f"{' or '.join(known) or 'sites by name'}"
        )
    if "auto" in choice:
        console().print(f"note: sites: {structure.auto} ({len(found)})", markup=False)
    return found


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
