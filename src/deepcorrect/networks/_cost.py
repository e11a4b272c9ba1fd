"""The cost of a network: parameters, multiply-adds and time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepcorrect.data import Preprocessing
from deepcorrect.networks._branches import ungated
from deepcorrect.networks._classifier import logits_of, trainable_parameters
from deepcorrect.networks._hooks import forward_hooks
from deepcorrect.networks._sharing import Replacement
from deepcorrect.runtime import Precision, autocast, device_of, inference, to_device

PRODUCTS = frozenset({"aten.convolution", "aten._convolution", "aten.addmm", "aten.mm"})
"""The operations of convolutions and linear layers."""


@dataclass(frozen=True)
class Costs:
    """The cost of a network.

    Attributes:
        parameters: The number of all parameters, including those of an adapter.
        trainable_parameters: The number of parameters that training changes.
        multiply_adds: The number of multiply-adds of the convolutions and linear layers per image.
            In a correction unit only the corrected filters count, not the products with zeros.
    """

    parameters: int
    trainable_parameters: int
    multiply_adds: int


def costs(model: nn.Module, preprocessing: Preprocessing) -> Costs:
    """Counts the parameters of a network and, by running one black image, its multiply-adds.

    Args:
        model: A network, wrapped or bare.
        preprocessing: The number of channels and the size of the network's input.

    Example:
        >>> import torch, deepcorrect as dc
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
        >>> dc.costs(network, dc.Preprocessing(8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
        Costs(parameters=1930, trainable_parameters=1930, multiply_adds=1920)
    """
    size = preprocessing.input_size
    image = torch.zeros(1, preprocessing.channels, size, size, device=device_of(model))
    return Costs(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable_parameters=sum(p.numel() for p in trainable_parameters(model)),
        multiply_adds=multiply_adds(model, image),
    )


def multiply_adds(model: nn.Module, image: Tensor) -> int:
    """Counts the multiply-adds of the convolutions and linear layers for one image.

    A module whose class has a method `multiply_adds(output)`, such as a correction unit, counts its
    own. In a network with a gate, the count is that of a corrected image.

    Args:
        model: A network, wrapped or bare.
        image: 1 x C x H x W. A network in TorchScript is counted by its operations.
    """
    total = 0
    describing = [module for module in model.modules() if hasattr(type(module), "multiply_adds")]
    described = {part for module in describing for part in module.modules() if part is not module}

    def count(name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        nonlocal total
        del name, args
        if isinstance(module, Replacement):
            return  # the module that it holds is counted
        own: Any = getattr(type(module), "multiply_adds", None)
        if own is not None:
            total += own(module, output)
        elif isinstance(module, nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += output[0].numel() * module.in_features

    counted = {
        str(at): each
        for at, each in enumerate(model.modules())
        if each not in described and not isinstance(each, torch.jit.ScriptModule)
    }
    hooks = forward_hooks(counted, count, prepend=True)
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    with ungated(model), inference(model), torch.no_grad(), hooks:
        if scripted:
            return _products(model, image)
        logits_of(model, image)
    return total


def _products(model: nn.Module, image: Tensor) -> int:
    """Counts the multiply-adds of convolutions and matrix products as they run.

    It serves TorchScript, whose modules call no hooks of Python.
    """
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415  (slow to import)

    with FlopCounterMode(display=False) as counter:
        logits_of(model, image)
    counts = counter.get_flop_counts()["Global"].items()
    return sum(flops for operation, flops in counts if str(operation) in PRODUCTS) // 2


@dataclass(frozen=True)
class Latency:
    """The time that a network takes for one batch.

    Attributes:
        seconds: The median time of the batch, in seconds.
        ratio: The time as a multiple of the reference's: the median of the turns' own ratios, which
            a busy machine disturbs less than a ratio of medians.
    """

    seconds: float
    ratio: float


def latencies(
    models: Sequence[nn.Module],
    images: Tensor,
    precision: Precision = "float32",
    turns: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Latency]:
    """Measures the time of each model on one batch, in alternating turns.

    In each turn, every model runs twice, and the second run is timed: the first one brings its
    weights into the cache, as in continuous use. Every other turn goes through the models in
    reverse order, so that none of them is always the first.

    Args:
        models: The models, the reference first. They run in inference mode on their own devices,
            with as many threads as PyTorch uses.
        images: N x C x H x W, in [0, 1].
        precision: The data type of the computation, as in `evaluate`.
        turns: The number of timed runs per model.
        clock: Gives the time in seconds.

    Returns:
        The latency of each model. The reference's ratio is 1.

    Example:
        >>> import torch
        >>> from deepcorrect.networks import latencies
        >>> small, large = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(3, 256, 7)
        >>> reference, measured = latencies([small, large], torch.rand(4, 3, 64, 64))
        >>> reference.ratio, measured.seconds > 0
        (1.0, True)
    """
    seconds: list[list[float]] = [[] for _ in models]
    order = list(zip(models, seconds, strict=True))
    with torch.no_grad():
        for turn in range(turns):
            for model, found in order if turn % 2 == 0 else reversed(order):
                device = device_of(model)
                shown = to_device(images, device)
                with inference(model), autocast(device, precision):
                    _run(model, shown)
                    started = clock()
                    _run(model, shown)
                    found.append(clock() - started)
    reference = seconds[0]
    return [
        Latency(
            statistics.median(found),
            statistics.median(own / other for own, other in zip(found, reference, strict=True)),
        )
        for found in seconds
    ]


def _run(model: nn.Module, images: Tensor) -> None:
    float(logits_of(model, images).float().sum())  # waits for a GPU
