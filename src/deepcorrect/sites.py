"""Sites: finding convolutions, reading their outputs, re-running what is behind them."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.classifier import network_of
from deepcorrect.errors import InputError, unknown

Forward = Callable[..., Any]
Edit = Callable[[str, Tensor], Tensor | None]


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Every 2-D convolution of the network in `model`, by dotted name, in module order."""
    modules = network_of(model).named_modules()
    return {name: module for name, module in modules if isinstance(module, nn.Conv2d)}


def find(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, nn.Module]:
    """The modules at the named sites, in the order of the network's modules.

    Args:
        model: a network, wrapped or bare.
        names: dotted names; None takes every 2-D convolution.

    Raises:
        InputError: a name is not a module of the network, or there is no convolution at all.
    """
    if names is None:
        found = dict(convolutions(model))
        if not found:
            raise InputError(
                "the network has no 2-D convolution: name the sites yourself "
                "(modules whose output is N x C x H x W)"
            )
        return dict(found)
    modules = dict(network_of(model).named_modules())
    wanted = set(names)
    for name in wanted:
        if name not in modules or name == "":
            accepted = convolutions(model) or (known for known in modules if known)
            raise unknown("site", name, accepted)
    return {name: module for name, module in modules.items() if name in wanted}


@contextmanager
def tap(
    model: nn.Module, sites: Iterable[str] | None = None, edit: Edit | None = None
) -> Iterator[dict[str, Tensor]]:
    """Reads, and optionally replaces, the outputs of sites while the block runs.

    Args:
        model: a network, wrapped or bare.
        sites: dotted names; None takes every 2-D convolution.
        edit: called with a site's name and output; a tensor it returns replaces the output.

    Yields:
        A dictionary that each forward pass fills with the sites' outputs, N x C x H x W, as they
        were before `edit`. They are copies, so that in-place layers behind do not change them.
    """
    maps: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor | None:
            del module, args
            maps[name] = _as_maps(name, output).clone()
            return None if edit is None else edit(name, output)

        return hook

    handles = [
        module.register_forward_hook(hook_for(name)) for name, module in find(model, sites).items()
    ]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _as_maps(name: str, output: Any) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 4:
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"site {name!r} gives {given}: a site's output must be N x C x H x W")
    return output


@dataclass(frozen=True)
class _Call:
    """One module call of a recorded pass: when it began and ended, what it gave, and what it left
    in the arguments that it changed in place (by position)."""

    start: int
    end: int
    output: Any
    changed: dict[int, Tensor]

    def recall(self, args: tuple[Any, ...]) -> Any:
        """A copy of the output, as the layers behind may change what they get in place.

        What the call did to its arguments is done again: a shortcut may read them later.
        """
        for place, value in self.changed.items():
            args[place].copy_(value)
        return _copied(self.output)


def _versions(args: tuple[Any, ...]) -> dict[int, int]:
    """Counts, by position, of the changes made in place so far to each tensor among `args`."""
    tensors = {place: value for place, value in enumerate(args) if isinstance(value, Tensor)}
    return {place: value._version for place, value in tensors.items() if not value.is_inference()}


def _copied(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.clone()
    return copy.copy(output)


class Replay:
    """One recorded forward pass, which can be re-run from any site on.

    Every module call is recorded. To re-run from a site, each module that finished before the
    site does gives its recorded output at once, so only what lies behind the site is computed.
    This needs no tracing and no knowledge of the network: branches and shortcuts that ran earlier
    are simply remembered.

    Memory: the activations of one forward pass of one batch.

    Args:
        model: a network, wrapped or bare, in inference mode.
        images: the batch, N x C x H x W.
        sites: names of the sites that will be read or re-run; each must run exactly once.

    Attributes:
        logits: the recorded pass's output, N x classes.
        maps: each site's recorded output, N x C x H x W.

    Raises:
        InputError: a site never runs, runs more than once, or does not give N x C x H x W.
    """

    def __init__(self, model: nn.Module, images: Tensor, sites: Iterable[str]) -> None:
        self._model = model
        self._images = images
        self._sites = find(model, sites)
        self._calls: dict[nn.Module, list[_Call]] = defaultdict(list)
        clock = 0

        def record(module: nn.Module, forward: Forward, *args: Any, **kw: Any) -> Any:
            nonlocal clock
            start, clock = clock, clock + 1
            before = _versions(args)
            output = forward(*args, **kw)
            after = _versions(args)
            changed = {
                place: args[place].clone() for place in before if before[place] != after[place]
            }
            self._calls[module].append(_Call(start, clock, _copied(output), changed))
            clock += 1
            return output

        with torch.no_grad(), _routed(model, record):
            self.logits: Tensor = model(images)
        self.maps: dict[str, Tensor] = {}
        for name, module in self._sites.items():
            calls = self._calls[module]
            if len(calls) != 1:
                raise InputError(
                    f"site {name!r} runs {len(calls)} times in a forward pass: "
                    "only a module that runs once can be swapped or corrected"
                )
            self.maps[name] = _as_maps(name, calls[0].output)

    def from_site(self, site: str, maps: Tensor) -> Tensor:
        """Logits, N x classes, of the recorded pass with `site`'s output replaced by `maps`.

        Gradients flow to `maps` where it requires them.
        """
        target = self._sites[site]
        end = self._calls[target][0].end
        position = 0

        def rerun(module: nn.Module, forward: Forward, *args: Any, **kw: Any) -> Any:
            nonlocal position
            if module is target:
                position = end
                return maps.clone()
            call = next((c for c in self._calls[module] if c.start >= position), None)
            if call is None:
                return forward(*args, **kw)
            if call.end < end:
                position = call.end
                return call.recall(args)
            position = call.start + 1
            output = forward(*args, **kw)
            position = call.end
            return output

        with _routed(self._model, rerun):
            return self._model(self._images)


@contextmanager
def _routed(model: nn.Module, through: Callable[..., Any]) -> Iterator[None]:
    """While the block runs, each module's `forward` is `through(module, forward, ...)`."""

    def route(module: nn.Module, forward: Forward) -> Forward:
        return lambda *args, **kw: through(module, forward, *args, **kw)

    modules = [
        module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)
    ]
    own = {module: module.__dict__["forward"] for module in modules if "forward" in module.__dict__}
    try:
        for module in modules:
            module.__dict__["forward"] = route(module, module.forward)
        yield
    finally:
        for module in modules:
            if module in own:
                module.__dict__["forward"] = own[module]
            else:
                module.__dict__.pop("forward", None)
