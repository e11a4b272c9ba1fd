"""Two branches in the place of one network: one for the chosen images, one for the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from deepcorrect.networks._sharing import Replacement
from deepcorrect.runtime import InputError, Suspension, widened


class Branches(Replacement):
    """Runs `site` on the images that `chooser` selects, and `base` on all others.

    If all images go to one branch, only this branch runs, on the batch itself. In a mixed batch,
    each branch runs on its own images only. With `means`, the others get the mean of what both
    branches answer, and `site` runs on them, too. Under tracing (`torch.compile`, `torch.export`),
    both branches run on all images, because control flow that depends on the data would break the
    graph.

    Args:
        site: The branch of the selected images. It runs on all images if there is no chooser, in
            training mode, and inside `ungated`.
        base: The branch of the other images.
        base_modules: The modules of `base` by their names in the network.

    Attributes:
        chooser: A module that maps images, N x C x H x W, to (N,) bool; None for no choice.
        means: Whether the other images get the `mean_answers` of both branches.
        ungated: Suspends the chooser in a thread.
        calls: The number of calls so far, by which the owner detects that there was one.
    """

    def __init__(
        self, site: nn.Module, base: nn.Module, base_modules: dict[str, nn.Module]
    ) -> None:
        super().__init__(site)
        self.base, self.base_modules = base, base_modules
        self.chooser: nn.Module | None = None
        self.means = False
        self.ungated = Suspension()
        self.calls = 0

    @property
    def deciding(self) -> bool:
        """Whether the next call chooses a branch for each image."""
        return self.chooser is not None and not self.ungated.active and not self.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the output, each image by the branch that it is sent to."""
        if not torch.compiler.is_compiling():
            self.calls += 1
        if self.chooser is None or not self.deciding:
            return self.site(*args, **kwargs)
        chosen: Tensor = self.chooser(input_images(args, kwargs))
        if torch.compiler.is_compiling():
            return self.traced(chosen, args, kwargs)
        count = int(chosen.sum() if len(chosen) > 1 else chosen)
        if count == len(chosen):
            return self.site(*args, **kwargs)
        if count == 0:
            return self.for_others(*args, **kwargs)
        parts = []
        for network, mask in ((self.site, chosen), (self.for_others, ~chosen)):
            some_args, some_kwargs = _rows((args, kwargs), mask)
            parts.append(network(*some_args, **some_kwargs))
        try:
            return tree_map(lambda a, b: merge_rows(a, b, chosen), *parts)
        except InputError:
            raise
        except ValueError as error:  # of lists with one item per image
            raise _unmergeable(*parts) from error

    def for_others(self, *args: Any, **kwargs: Any) -> Any:
        """Computes what the images get that are not selected."""
        if not self.means:
            return self.base(*args, **kwargs)
        copies, more = tree_map(_copied, (args, kwargs))  # either may change its input in place
        return mean_answers(self.base(*args, **kwargs), self.site(*copies, **more))

    def _replicate_for_data_parallel(self) -> Branches:
        replica: Any = super()._replicate_for_data_parallel()
        replica.ungated = self.ungated.as_seen_here()
        return replica

    def traced(self, chosen: Tensor, args: Any, kwargs: Any) -> Any:
        """Computes the output without control flow: both branches run on all images.

        Args:
            chosen: Which images are selected, (N,) bool.
            args: The positional arguments of the call.
            kwargs: The keyword arguments of the call.
        """
        copies, more = tree_map(_copied, (args, kwargs))  # either may change its input in place
        first, second = self.site(*copies, **more), self.base(*args, **kwargs)
        if self.means:
            second = mean_answers(second, first)
        return tree_map(lambda a, b: _where(chosen, a, b), first, second)


def mean_answers(first: Any, second: Any) -> Any:
    """The logarithm of the mean of two networks' probabilities, in the place of their logits.

    It is the average of two classifiers' outputs (Wortsman et al. 2022, WiSE-FT, section 5).

    Args:
        first: Logits, N x classes with two classes or more, alone or as the one tensor of an
            object such as those of transformers.
        second: The same of another network.

    Returns:
        What `first` is, with the logarithms in its type.

    Raises:
        InputError: They are something else.

    Example:
        >>> import torch
        >>> from deepcorrect.networks import mean_answers
        >>> sure, unsure = torch.tensor([[4.0, 0.0]]), torch.zeros(1, 2)
        >>> mean_answers(sure, unsure).exp()  # of 0.982 and 0.5
        tensor([[0.7410, 0.2590]])
    """
    logits = [logits_in(each) for each in (first, second)]
    logs = torch.stack([widened(each).log_softmax(1) for each in logits])
    mean = (logs.logsumexp(0) - math.log(2)).to(logits[0].dtype)
    return tree_map(lambda value: mean if isinstance(value, Tensor) else value, first)


def logits_in(answer: Any) -> Tensor:
    """The logits of an answer of which a mean can be taken, N x classes.

    Raises:
        InputError: It is not one tensor N x classes, alone or in an object.
    """
    found = [each for each in tree_leaves(answer) if isinstance(each, Tensor)]
    if len(found) == 1 and found[0].dim() == 2 and found[0].shape[1] > 1:
        return found[0]
    shapes = [tuple(each.shape) for each in found] or type(answer).__name__
    raise InputError(
        f"the mean of two networks' answers is of logits, N x classes, but the network returns "
        f"{shapes[0] if len(shapes) == 1 else shapes}: choose others='network' for its gate"
    )


@contextmanager
def ungated(model: nn.Module) -> Iterator[None]:
    """Makes a corrected network correct every image while the block runs, despite a gate.

    Other threads that call the network meanwhile are not affected.
    """
    with ExitStack() as blocks:
        for module in model.modules():
            if isinstance(module, Branches):
                blocks.enter_context(module.ungated.block())
        yield


def merge_rows(first: Tensor, second: Tensor, chosen: Tensor) -> Tensor:
    """Merges the rows of the chosen images and of the others into one batch, N x ...

    Args:
        first: One row per chosen image. A number, string or None must be the same for all images.
        second: One row per other image.
        chosen: Which images are chosen, (N,) bool.

    Raises:
        InputError: The tensors do not have one row per image, or the values are of other types.
    """
    if not isinstance(first, Tensor):
        if isinstance(first, bool | int | float | complex | str | None) and first == second:
            return first
        raise _unmergeable(first, second)
    counts = int(chosen.sum()), int((~chosen).sum())
    if not first.dim() or (len(first), len(second)) != counts:
        raise InputError(
            f"a gate needs one row of output per image, but for {counts[0]} images the network "
            f"returns {tuple(first.shape)}: correct this network without a gate"
        )
    both = first.new_empty(len(chosen), *first.shape[1:])
    both[chosen], both[~chosen] = first, second.to(first.dtype)
    return both


def input_images(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The images, N x C x H x W, among the arguments of a network's call.

    Raises:
        InputError: No argument has four dimensions.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim() == 4:
            return value
    raise InputError("a gate reads images, N x C x H x W, but the network was called with none")


def _rows(values: Any, mask: Tensor) -> Any:
    """Selects rows of every tensor that has one row per image."""
    count = len(mask)

    def some(value: Any) -> Any:
        per_image = isinstance(value, Tensor) and value.dim() > 0 and len(value) == count
        return value[mask] if per_image else value

    return tree_map(some, values)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _unmergeable(first: Any, second: Any) -> InputError:
    kinds = " and ".join(dict.fromkeys(type(each).__name__ for each in (first, second)))
    return InputError(
        f"a gate cannot merge what the network returns for corrected and uncorrected images "
        f"({kinds}): it merges tensors with one row per image, also in tuples and dictionaries; "
        "return these, or correct this network without a gate"
    )


def _where(chosen: Tensor, first: Any, second: Any) -> Any:
    if not isinstance(first, Tensor):
        return merge_rows(first, second, chosen)
    return torch.where(_column(chosen, first), first, second)


def _column(chosen: Tensor, like: Tensor) -> Tensor:
    return chosen.view(-1, *[1] * (like.dim() - 1))
