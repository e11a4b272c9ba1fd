"""Several adapters on one network, selected by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import nn

from deepcorrect.correction._correct import load_adapter
from deepcorrect.correction._corrected_model import AdaptedModel
from deepcorrect.correction._own_state import OwnState
from deepcorrect.networks import network_of, ungated
from deepcorrect.runtime import InputError, unknown


class AdapterSet(OwnState):
    """Adapters on one network, of which at most one is active; initially none is.

    Args:
        adapters: The adapters by name, all on the same network. Names must not contain dots.

    Raises:
        InputError: There is no adapter, the adapters are on different networks, or a name is not
            accepted.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> adapted = dc.correct(network, {"0": [1, 5]}, unit={"kind": "lite", "start": "he"})
        >>> adapters = dc.AdapterSet({"blur": adapted})
        >>> images = torch.rand(2, 3, 16, 16)
        >>> torch.equal(adapters(images), network(images))
        True
        >>> with adapters.use("blur"):
        ...     torch.equal(adapters(images), adapted(images))
        True
    """

    def __init__(self, adapters: Mapping[str, AdaptedModel]) -> None:
        super().__init__()
        if not adapters:
            raise InputError("an adapter set needs at least one adapter")
        first = next(iter(adapters.values()))
        for name, adapted in adapters.items():
            if not name or "." in name:
                raise InputError(f"{name!r} cannot name an adapter: it is empty or contains a dot")
            if network_of(adapted) is not network_of(first):
                raise InputError(f"the adapter {name!r} is on a different network from the others")
        self.network = first.network
        self.adapters = nn.ModuleDict({_key(name): each for name, each in adapters.items()})
        self._active: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the adapters."""
        return tuple(key.removeprefix("adapter ") for key in self.adapters)

    @property
    def active(self) -> str | None:
        """The name of the active adapter, or None when the untouched network runs."""
        return self._active

    def __getitem__(self, name: str) -> AdaptedModel:
        """The named adapter on the network, for saving, fusing or training."""
        if _key(name) not in self.adapters:
            raise unknown("adapter", name, self.names)
        adapted = self.adapters[_key(name)]
        assert isinstance(adapted, AdaptedModel)
        return adapted

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.adapters)

    def use(self, name: str | None) -> _Activation:
        """Activates an adapter, or deactivates all of them.

        The call takes effect immediately and permanently. As a context manager,
        `with adapters.use("blur"): ...`, it takes effect until the block ends.

        Args:
            name: The adapter's name; None runs the untouched network.

        Raises:
            InputError: There is no such adapter.
        """
        if name is not None:
            self[name]
        activation = _Activation(self, self._active)
        self._active = name
        return activation

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the network's output, corrected by the active adapter."""
        model = self.network if self._active is None else self[self._active]
        return model(*args, **kwargs)

    def untouched(self) -> nn.Module:
        """Returns the network without any adapter."""
        return self.network

    def running_modules(self) -> dict[str, nn.Module] | None:
        """Returns the running modules of the active adapter."""
        return None if self._active is None else self[self._active].running_modules()

    def module_trees(self) -> list[dict[str, nn.Module]] | None:
        """Returns the module trees of the active adapter."""
        return None if self._active is None else self[self._active].module_trees()

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Returns the trainable parameters of the active adapter."""
        return [] if self._active is None else self[self._active].trainable_parameters()

    def ungated(self) -> AbstractContextManager[None]:
        """Makes the adapters correct every image while the block runs."""
        return ungated(self)

    def state_dict(
        self,
        *args: Any,
        destination: dict[str, Any] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Any]:
        """Returns the tensors of all adapters under `NAME/SITE/`, without the network's."""
        del args
        found: dict[str, Any] = {} if destination is None else destination
        for name in self.names:
            own = f"{prefix}{name}/"
            self[name].state_dict(destination=found, prefix=own, keep_vars=keep_vars)
        return found

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Loads what `state_dict` returned.

        Returns:
            The missing and the unexpected names, as `torch.nn.Module.load_state_dict` does.

        Raises:
            InputError: With `strict`, a tensor is missing or left over; or a shape is different.
        """
        prefixes = tuple(f"{name}/" for name in self.names)
        odd = [key for key in state_dict if not key.startswith(prefixes)]
        if strict and odd:
            raise InputError(
                f"the tensor {odd[0]!r} belongs to no adapter of the set: {', '.join(self.names)}"
            )
        missing: list[str] = []
        for name, own in zip(self.names, prefixes, strict=True):
            some = {k.removeprefix(own): v for k, v in state_dict.items() if k.startswith(own)}
            found = self[name].load_state_dict(some, strict, assign)
            missing += [f"{own}{key}" for key in found.missing_keys]
            odd += [f"{own}{key}" for key in found.unexpected_keys]
        return nn.modules.module._IncompatibleKeys(missing, odd)

    def train(self, mode: bool = True) -> AdapterSet:
        """Sets the mode of the units. The network keeps its own mode."""
        self.training = mode
        self.adapters.train(mode)
        return self


class _Activation:
    """A change of the active adapter that is reverted when a `with` block ends."""

    def __init__(self, adapters: AdapterSet, before: str | None) -> None:
        self.adapters, self.before = adapters, before

    def __enter__(self) -> AdapterSet:
        return self.adapters

    def __exit__(self, *error: object) -> None:
        self.adapters._active = self.before


def load_adapters(model: nn.Module, sources: Mapping[str, str | Path]) -> AdapterSet:
    """Loads several saved adapters onto the network that they were trained for.

    Args:
        model: The network, with the weights it had when the adapters were trained.
        sources: The source of each adapter by name: a folder or `hf:OWNER/NAME[@REVISION]`.

    Raises:
        InputError: An adapter is missing or incomplete, or belongs to a different network.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
        >>> for name, filters in {"blur": [1, 5], "noise": [0, 2]}.items():
        ...     _ = dc.correct(network, {"0": filters}).save_pretrained(name)
        >>> adapters = dc.load_adapters(network, {"blur": "blur", "noise": "noise"})
        >>> adapters.names, adapters["noise"].config.sites["0"].filters
        (('blur', 'noise'), (0, 2))
    """
    return AdapterSet({name: load_adapter(model, source) for name, source in sources.items()})


def _key(name: str) -> str:
    """The name under which an adapter is registered; the prefix avoids clashes with attributes."""
    return f"adapter {name}"
