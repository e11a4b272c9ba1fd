"""Several adapters on one network, chosen by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from deepcorrect.correction._correct import load_adapter
from deepcorrect.correction._corrected_model import AdaptedModel
from deepcorrect.networks import Wrapper, network_of
from deepcorrect.runtime import InputError, unknown


class AdapterSet(Wrapper):
    """Adapters on one network, of which one at most is in use; at first none is.

    Args:
        adapters: by name, all on the same network.

    Raises:
        InputError: there is none, they are on different networks, or a name cannot be one.

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
            raise InputError("an adapter set needs one adapter at least")
        first = next(iter(adapters.values()))
        for name, adapted in adapters.items():
            if not name or "." in name:
                raise InputError(f"{name!r} cannot name an adapter: it is empty or has a dot in it")
            if network_of(adapted) is not network_of(first):
                raise InputError(f"the adapter {name!r} is on another network than the others")
        self.network = first.network
        self.adapters = nn.ModuleDict({_key(name): each for name, each in adapters.items()})
        self._active: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters' names."""
        return tuple(key.removeprefix("adapter ") for key in self.adapters)

    @property
    def active(self) -> str | None:
        """The name of the adapter in use; None for the untouched network."""
        return self._active

    def __getitem__(self, name: str) -> AdaptedModel:
        """One adapter on the network, to save, fuse or train."""
        if _key(name) not in self.adapters:
            raise unknown("adapter", name, self.names)
        adapted = self.adapters[_key(name)]
        assert isinstance(adapted, AdaptedModel)
        return adapted

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.adapters)

    def use(self, name: str | None) -> _Chosen:
        """Takes an adapter into use, or None for the untouched network's answers.

        At once and for good; as a context manager, `with adapters.use("blur"): ...`, until the
        block ends.

        Raises:
            InputError: there is no such adapter.
        """
        if name is not None:
            self[name]
        chosen = _Chosen(self, self._active)
        self._active = name
        return chosen

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output, corrected by the adapter in use."""
        model = self.network if self._active is None else self[self._active]
        return model(*args, **kwargs)

    def untouched(self) -> nn.Module:
        """The network without any adapter."""
        return self.network

    def running_modules(self) -> dict[str, nn.Module] | None:
        """Those of the adapter in use."""
        return None if self._active is None else self[self._active].running_modules()

    def module_trees(self) -> list[dict[str, nn.Module]] | None:
        """Those of the adapter in use."""
        return None if self._active is None else self[self._active].module_trees()

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Those of the adapter in use."""
        return [] if self._active is None else self[self._active].trainable_parameters()

    def ungated(self) -> AbstractContextManager[None]:
        """While the block runs, the adapter in use corrects every image."""
        return nullcontext() if self._active is None else self[self._active].ungated()

    def train(self, mode: bool = True) -> AdapterSet:
        """Sets the units' mode. The network stays in the mode that it is in."""
        self.training = mode
        self.adapters.train(mode)
        return self


class _Chosen:
    """A choice that was made, and may be undone."""

    def __init__(self, adapters: AdapterSet, before: str | None) -> None:
        self.adapters, self.before = adapters, before

    def __enter__(self) -> AdapterSet:
        return self.adapters

    def __exit__(self, *error: object) -> None:
        self.adapters._active = self.before


def load_adapters(model: nn.Module, sources: Mapping[str, str | Path]) -> AdapterSet:
    """Puts several saved adapters onto the network they were made for.

    Args:
        model: the network.
        sources: by name, a folder or `hf:OWNER/NAME[@REVISION]`.

    Raises:
        InputError: one of them does not fit.

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
    """A name among modules, which may not be that of a method of theirs."""
    return f"adapter {name}"
