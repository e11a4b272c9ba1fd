"""Finding sums, inverted bottlenecks and the stem in the flow of values through a network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from deepcorrect.networks._flow import PRODUCTS, Flow, Operation

ACTIVATIONS = frozenset(
    {
        "relu",
        "relu6",
        "hardtanh",
        "leaky_relu",
        "elu",
        "celu",
        "selu",
        "gelu",
        "silu",
        "mish",
        "softplus",
        "hardswish",
        "prelu",
        "_prelu_kernel",
        "clamp",
        "clamp_min",
    }
)
"""Activations, under their names in ATen."""

SIGMOIDS = frozenset({"sigmoid", "hardsigmoid", "tanh"})
"""The parts of activations that are written as products, such as `x * sigmoid(x)`."""

VIEWS = frozenset({"view", "_unsafe_view", "permute", "transpose", "clone", "alias"})
"""Operations that keep all values, in another order or shape."""

NORMS = frozenset(
    {
        "native_batch_norm",
        "cudnn_batch_norm",
        "miopen_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "_batch_norm_with_update",
        "_batch_norm_no_update",
        "native_group_norm",
        "native_layer_norm",
    }
)
"""Normalisations."""

POOLS = frozenset(
    {
        "mean",
        "avg_pool2d",
        "adaptive_avg_pool2d",
        "_adaptive_avg_pool2d",
        "max_pool2d_with_indices",
        "adaptive_max_pool2d",
        "amax",
    }
)
"""Operations behind which there are fewer positions."""


class FlowSearch:
    """What a flow shows of a network's structure.

    Args:
        flow: The flow of one forward pass.

    Attributes:
        sums: The additions of two values between which a layer lies, by their place, and whether
            they are of maps, and the layers between include a convolution and mix channels. (A
            depthwise convolution alone encodes positions.) A sum that only another sum reads is
            part of that one.
        bottlenecks: For each end of an inverted bottleneck the places of its spatial convolution
            and of its last value: a sum, or the projection with its normalisation. Empty if most
            projections behind spatial convolutions do not narrow.
    """

    def __init__(self, flow: Flow) -> None:
        self._operations, self._calls = flow.operations, flow.calls
        self._readers, self._once = flow.readers(), flow.run_once()
        self._with_products = {
            call
            for operation in self._operations
            if operation.name in PRODUCTS
            for call in operation.within
        }
        products = _bits(self._operations, lambda each: each.name in PRODUCTS)
        convolutions = _bits(self._operations, lambda each: each.weight is not None)
        depthwise = _bits(
            self._operations, lambda each: each.weight is not None and each.weight[1] == 1
        )
        found: dict[int, bool] = {}
        for place, operation in enumerate(self._operations):
            if self._adds(operation):
                first, second = (self._operations[read].before for read in operation.reads)
                between = first ^ second
                if between & products:
                    mixes = bool(between & convolutions) and bool(between & products & ~depthwise)
                    found[place] = mixes and len(operation.shape) == 4
        self.sums = {p: s for p, s in found.items() if not self._is_partial(p, found)}
        pairs = [pair for place in range(len(self._operations)) for pair in self._pairs(place)]
        narrower = sum(self._width(last) < self._width(first) for first, last in pairs)
        self.bottlenecks: list[tuple[int, int]] = []
        if 2 * narrower > len(pairs):
            ends = ((first, self._end(last)) for first, last in pairs)
            self.bottlenecks = [(first, end) for first, end in ends if end is not None]

    def module_of(self, place: int) -> str | None:
        """The module that returns a sum, before or after an activation; None if none does."""
        same = self._views({place})
        readers = {reader for each in same for reader in self._readers[each]}
        after = self._views({p for p in readers if self._operations[p].name in ACTIVATIONS})
        calls = self._returning(same | after)
        inside = [
            call
            for call in calls
            if call in self._operations[place].within and call in self._with_products
        ]
        if not inside:  # a module for the addition, or for the activation behind it, alone
            activated = [call for call in calls if self._calls[call].value in after]
            inside = activated or calls
        return self._calls[self._innermost(inside)].name if inside else None

    def is_inside(self, place: int, names: Collection[str]) -> bool:
        """Whether an operation happens inside a call of one of some modules."""
        return any(self._calls[call].name in names for call in self._operations[place].within)

    def end_of(self, first: int, last: int, alike: Collection[str]) -> str | None:
        """The module that ends an inverted bottleneck.

        Args:
            first: The place of its spatial convolution.
            last: The place of its last value.
            alike: Names of modules of the same classes as those that return sums. They are
                preferred to layers inside that return the same value.
        """
        within = self._operations[first].within
        calls = [call for call in self._returning({last}) if call in within]
        if not calls:
            return self.module_of(last)
        preferred = [call for call in calls if self._calls[call].name in alike]
        return self._calls[self._innermost(preferred or calls)].name

    def stem(self) -> str | None:
        """The last convolution that both values of the first sum depend on; None without one."""
        for place in self.sums:
            first, second = (self._operations[read] for read in self._operations[place].reads)
            shared = first.before & second.before
            convolutions = _bits(self._operations, lambda each: each.name == "convolution")
            last = (shared & convolutions).bit_length() - 1
            within = self._operations[max(last, 0)].within
            calls = [call for call in self._returning({last}) if call in within]
            return self._calls[self._innermost(calls)].name if calls else None
        return None

    def _views(self, places: set[int]) -> set[int]:
        """Operations, and those that only arrange their values in another way."""
        found, waiting = set(places), list(places)
        while waiting:
            for reader in self._readers[waiting.pop()]:
                if self._operations[reader].name in VIEWS and reader not in found:
                    found.add(reader)
                    waiting.append(reader)
        return found

    def _returning(self, places: Collection[int]) -> list[int]:
        """The calls of modules that return a value and run once, without the whole network's."""
        return [
            at
            for at, call in enumerate(self._calls)
            if call.value in places and call.name in self._once and call.name
        ]

    def _innermost(self, calls: Collection[int]) -> int:
        return max(calls, key=lambda call: len(self._calls[call].within))

    def _adds(self, operation: Operation) -> bool:
        """Whether an operation adds two values of one row of maps or tokens per image."""
        shape = operation.shape
        return (
            operation.name == "add"
            and len(set(operation.reads)) == 2
            and operation.shapes == (shape, shape)
            and len(shape) in (3, 4)
            and shape[0] == self._operations[0].shape[0]
        )

    def _is_partial(self, place: int, sums: Collection[int]) -> bool:
        readers = self._readers[place]
        return len(readers) == 1 and readers[0] in sums

    def _pairs(self, place: int) -> Iterator[tuple[int, int]]:
        """A spatial convolution with each linear 1 x 1 convolution of its maps that does not widen.

        Normalisations, activations and gates may lie between them.
        """
        first = self._operations[place]
        if not _is_spatial(first):
            return
        waiting, seen = [place], {place}
        while waiting:
            for reader in self._readers[waiting.pop()]:
                operation = self._operations[reader]
                if reader in seen or operation.name in POOLS or reader in self.sums:
                    continue
                seen.add(reader)
                if operation.name not in PRODUCTS:
                    waiting.append(reader)
                elif (
                    operation.weight is not None
                    and operation.weight[1:] == (first.shape[1], 1, 1)
                    and operation.shape[2:] == first.shape[2:]
                    and operation.weight[0] <= first.shape[1]
                    and self._end(reader) is not None
                ):
                    yield place, reader

    def _end(self, place: int) -> int | None:
        """The last value of a projection: with its normalisation and its sum.

        None if an activation follows, so that the projection is not linear.
        """
        norm = [p for p in self._readers[place] if self._operations[p].name in NORMS]
        last = norm[0] if norm else place
        if any(self._operations[p].name in ACTIVATIONS | SIGMOIDS for p in self._readers[last]):
            return None
        return next((p for p in self._readers[last] if self._adds_to(last, p)), last)

    def _adds_to(self, branch: int, place: int) -> bool:
        """Whether an operation adds to a branch what does not depend on it."""
        if place not in self.sums:
            return False
        others = (read for read in self._operations[place].reads if read != branch)
        return not any(self._operations[read].before >> branch & 1 for read in others)

    def _width(self, place: int) -> int:
        return self._operations[place].shape[1]


def _is_spatial(operation: Operation) -> bool:
    """Whether an operation is a convolution that mixes neighbouring positions."""
    weight = operation.weight
    return weight is not None and len(weight) == 4 and max(weight[2:]) > 1


def _bits(operations: list[Operation], wanted: Callable[[Operation], bool]) -> int:
    """A bit for each operation that is wanted."""
    found = 0
    for place, operation in enumerate(operations):
        if wanted(operation):
            found |= 1 << place
    return found
