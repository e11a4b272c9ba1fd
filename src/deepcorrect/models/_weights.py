"""Weights files, which are read safely and loaded only if every tensor fits the network."""

from __future__ import annotations

import difflib
from pathlib import Path

from torch import Tensor, nn

from deepcorrect.models._fit import Fit, Rename, State, load_fit
from deepcorrect.models._reading import read_weights, shard_hint
from deepcorrect.models._states import choose_state
from deepcorrect.models._values import QUANTISED, what_is_wrong
from deepcorrect.networks import network_of
from deepcorrect.runtime import InputError, console

RANDOM = "random"
"""The value of `--weights` for an untrained network."""
SHOWN = 3


def load_weights(
    model: nn.Module, path: Path, rename: Rename | None = None, *, state: str | None = None
) -> None:
    """Loads a state dict into a network; every tensor of both must have a counterpart.

    PyTorch decides what is missing: counters of batches and further names of a tied tensor are not.
    The file's names may have a prefix, such as `module.`, which is stripped if the names then fit.
    What a file is, is decided by its content and not by its name.

    Args:
        model: The network, or a `Classifier` around it.
        path: A safetensors file, a PyTorch file, an archive of NumPy arrays (`.npz`), or the index
            of a checkpoint in several files. The state dict may lie under any key.
        rename: Applied if the file's names are not the network's.
        state: The key of the state dict to take, such as `state_dict`. None takes the one that
            fits; of several, averaged weights (`state_dict_ema`, `model_ema`) as timm does.

    Raises:
        InputError: The file cannot be read safely, has the weights of another network, or has
            values that no trained network has, such as NaN.

    Example:
        >>> import pathlib, tempfile, torch
        >>> from deepcorrect.models import load_weights
        >>> saved, network = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "weights.pt")
        ...     torch.save({"net": saved.state_dict(), "epoch": 3}, path)
        ...     load_weights(network, path)
        >>> network.weight.equal(saved.weight)
        True
    """
    network = network_of(model)
    path = path.expanduser()
    fit = choose_state(network, read_weights(path), path, rename, state)
    if not fit.exact:
        raise _explained(network, fit, path)
    wrong = what_is_wrong(network, fit.state)
    if wrong:
        raise InputError(f"{path} cannot be used: {wrong}")
    numbers = fit.numbers(network.state_dict())
    if numbers:
        console().print(f"{path}: {', '.join(numbers)} are single numbers and are left out")
    error = load_fit(network, fit)
    if error:
        raise InputError(f"{path} cannot be loaded: {error.splitlines()[-1].strip()}")


def in_order(state: State, network: nn.Module) -> State:
    """The tensors under the network's names, in order; unchanged if the shapes do not match so."""
    own = network.state_dict()
    shapes = [getattr(tensor, "shape", None) for tensor in state.values()]
    if shapes != [getattr(tensor, "shape", None) for tensor in own.values()]:
        return state
    return dict(zip(own, state.values(), strict=True))


def _explained(network: nn.Module, fit: Fit, path: Path) -> InputError:
    """The error for a state that does not fit: what is missing, what is left over, and a guess."""
    own = network.state_dict()
    shapes = [
        f"{name} has shape {tuple(fit.state[name].shape)}, the network's has "
        f"{tuple(own[name].shape)}"
        for name in fit.shapes
    ]
    problems = [
        _some([f"{name} is missing" for name in fit.missing]),
        _some([f"{name} is not in the network" for name in fit.surplus]),
        _some(shapes),
    ]
    if not any(problems):
        problems.append(fit.error.splitlines()[-1].strip())
    under = f" under {fit.prefix!r}" if fit.prefix else ""
    return InputError(
        f"{path} holds{under} the weights of another network than this "
        f"{type(network).__name__}: {'; '.join(filter(None, problems))}"
        f"{shard_hint(path) or _guess(own, fit)}"
    )


def _some(problems: list[str]) -> str:
    more = f" (and {len(problems) - SHOWN} more)" if len(problems) > SHOWN else ""
    return "; ".join(problems[:SHOWN]) + more


def _guess(own: State, fit: Fit) -> str:
    """What the difference may come from; empty if there is nothing to say."""
    pairs = [(tuple(fit.state[name].shape), tuple(own[name].shape)) for name in fit.shapes]
    if not fit.state:
        return ". The file holds no tensors"
    if any("_packed_params" in name or name.endswith(".scale") for name in fit.surplus):
        return f". {QUANTISED}"
    if pairs and not fit.missing and all(sorted(given) == sorted(has) for given, has in pairs):
        return (
            ". The sides of these weights are in another order, as in TensorFlow and Flax: convert "
            "them to PyTorch's"
        )
    if any("/" in name for name in fit.surplus):
        return ". It may be an adapter of deepcorrect: give its folder with --adapter"
    if any("lora_" in name for name in fit.surplus):
        return ". It may be a LoRA adapter: merge it into its network, and save that one's weights"
    if pairs and not fit.missing and not fit.surplus:
        heads = {(given[0], has[0]) for given, has in pairs if given and given[1:] == has[1:]}
        if len(heads) == 1 and len(pairs) <= 2:
            return f". It may be for {heads.pop()[0]} classes: give --classes"
        return ". It may be the same architecture in another size"
    if fit.missing and fit.surplus and _shapes(fit.surplus, fit.state) == _shapes(fit.missing, own):
        return ". The shapes agree in order: it may be the same network under other names"
    if fit.missing and not fit.surplus and len(fit.missing) < len(own):
        return ". The file may be of a part of the network, such as one without its head"
    if fit.surplus and not fit.missing:
        return ". The file may be of a larger network, or have training heads"
    near = difflib.get_close_matches(next(iter(fit.missing), ""), fit.surplus, n=1, cutoff=0.6)
    return f". The nearest name to {fit.missing[0]} in the file is {near[0]}" if near else ""


def _shapes(names: tuple[str, ...], state: State) -> list[tuple[int, ...]]:
    return [tuple(state[n].shape) for n in names if isinstance(state[n], Tensor)]
