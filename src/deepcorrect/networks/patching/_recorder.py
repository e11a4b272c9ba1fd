"""Choosing the fastest exact way to record and re-run a network's passes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from deepcorrect.networks.patching._graph import Graph
from deepcorrect.networks.patching._graph_pass import GraphPass
from deepcorrect.networks.patching._nodes import ExportError
from deepcorrect.networks.patching._pass import Pass, Recorder
from deepcorrect.networks.patching._replay import Replay
from deepcorrect.runtime import console

TOLERANCE = 1e-3
"""The largest accepted difference as a fraction of the largest logit. Float32 sums in another order
differ by about 1e-5."""


def recorder(model: nn.Module, images: Tensor, sites: Sequence[str]) -> Recorder:
    """Makes a function that records passes of a model.

    The passes run on the network's exported graph if it can be exported and if it reproduces the
    network's logits on `images`, including those of a swap at each site. Otherwise they run on
    `Replay`, which supports any network.

    Args:
        model: A network, wrapped or bare, in inference mode.
        images: At least two images, N x C x H x W. Later passes must not have more.
        sites: The names of the sites to re-run passes from.

    Returns:
        The recorder.

    Raises:
        InputError: A site does not run exactly once, or its output contains no maps.
    """
    reference = Replay(model, images, sites)
    try:
        graph = _checked(model, images, reference)
    except ExportError as reason:
        console().print(
            f"note: re-running module by module, as the network's graph cannot be used ({reason})"
        )
        return partial(Replay, model, sites=sites)
    return partial(GraphPass, graph)


def _checked(model: nn.Module, images: Tensor, reference: Replay) -> Graph:
    """Makes the network's graph and compares its pass, and a swap at each site, with the network's.

    Raises:
        ExportError: The results differ, or the graph cannot be made or run.
    """
    try:
        graph = Graph(model, images, list(reference.maps))
        recorded = GraphPass(graph, images)
        _compare(recorded.logits, reference.logits, "answers")
        for site, maps in reference.maps.items():
            _compare(recorded.maps[site], maps, f"maps of {site}")
            _check_swaps(recorded, reference, site, maps.flip(0) / 2)
        return graph
    except (RuntimeError, KeyError, TypeError, IndexError) as error:
        raise ExportError(f"{type(error).__name__}: {error}") from error


def _check_swaps(recorded: Pass, reference: Replay, site: str, other: Tensor) -> None:
    """Compares one swap on the graph with a full pass of the reference."""
    swap = next(iter(recorded.swaps(site, other)), None)
    if swap is None:
        return
    maps = reference.maps[site].clone()
    chosen = int(swap.filters[0])
    maps[:, chosen] = other[:, chosen]
    expected = reference.from_site(site, maps)
    _compare(recorded.from_site(site, maps), expected, f"answers after {site}")
    same = swap.filters == chosen
    _compare(swap.logits[same], expected[swap.images[same]], f"swap at {site}")


def _compare(given: Tensor, expected: Tensor, what: str) -> None:
    given, expected = given.detach(), expected.detach()
    limit = TOLERANCE * max(1.0, float(expected.abs().max()))
    if given.shape != expected.shape or not float((given - expected).abs().max()) <= limit:
        raise ExportError(f"the graph's {what} differ from the network's")
