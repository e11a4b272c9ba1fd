"""Re-running any network from a site, using recorded outputs of the modules before it."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.networks import find, layout_of, logits_of, require_one_run
from deepcorrect.networks.patching._pass import Swap

Forward = Callable[..., Any]


@dataclass(frozen=True)
class _Call:
    """One module call of a recorded pass.

    Attributes:
        start: The time at which the call began, as a count of calls and returns.
        end: The time at which it ended.
        output: The output of the call.
        changed: The final values of arguments that it changed in place, by position.
    """

    start: int
    end: int
    output: Any
    changed: dict[int, Tensor]

    def recall(self, args: tuple[Any, ...]) -> Any:
        """Repeats the call's changes of its arguments and returns a copy of its output.

        A shortcut may read the arguments later, and later layers may change the output in place.
        """
        for place, value in self.changed.items():
            args[place].copy_(value)
        return _copied(self.output)


def _versions(args: tuple[Any, ...]) -> dict[int, int]:
    """The number of in-place changes so far of each tensor among `args`, by position."""
    tensors = {place: value for place, value in enumerate(args) if isinstance(value, Tensor)}
    return {place: value._version for place, value in tensors.items() if not value.is_inference()}


def _copied(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.clone()
    return copy.copy(output)


class Replay:
    """One recorded forward pass that can be re-run from any site.

    Every module call is recorded. In a re-run, each module that finished before the site returns
    its recorded output, so that only the modules after the site are computed. This works for any
    network without tracing it: the outputs of earlier branches and shortcuts are recorded too.

    The activations of one forward pass of the batch are kept in memory.

    Args:
        model: A network, wrapped or bare, in inference mode.
        images: The batch, N x C x H x W.
        sites: The names of the sites to read or re-run from. Each must run exactly once.

    Attributes:
        logits: The logits of the recorded pass, N x classes.
        maps: The recorded maps of each site, N x C x H x W.

    Raises:
        InputError: A site does not run exactly once, or its output contains no maps.
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
            self.logits: Tensor = logits_of(model, images)
        self.maps: dict[str, Tensor] = {}
        self._layouts = {}
        for name, module in self._sites.items():
            calls = self._calls[module]
            require_one_run(name, len(calls))
            self._layouts[name] = layout_of(name, module, calls[0].output)
            self.maps[name] = self._layouts[name].maps(calls[0].output)

    def from_site(self, site: str, maps: Tensor) -> Tensor:
        """See `Pass.from_site`."""
        target = self._sites[site]
        recorded = self._calls[target][0]
        replaced, end = self._layouts[site].output(maps, recorded.output), recorded.end
        position = 0

        def rerun(module: nn.Module, forward: Forward, *args: Any, **kw: Any) -> Any:
            nonlocal position
            if module is target:
                position = end
                return replaced.clone()
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
            return logits_of(self._model, self._images)

    def swaps(self, site: str, clean: Tensor) -> Iterator[Swap]:
        """See `Pass.swaps`. One pass of all images runs per filter."""
        distorted = self.maps[site]
        images = torch.arange(len(distorted), device=distorted.device)
        different = (distorted != clean).any(3).any(2).any(0)
        for index in different.nonzero().flatten().tolist():
            maps = distorted.clone()
            maps[:, index] = clean[:, index]
            yield Swap(images, torch.full_like(images, index), self.from_site(site, maps))


@contextmanager
def _routed(model: nn.Module, through: Callable[..., Any]) -> Iterator[None]:
    """Replaces each module's `forward` by `through(module, forward, ...)` while the block runs."""

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
