"""The fastest way to record and re-run a network's passes that gives its own answers."""

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

TOLERANCE = 1e-3  # of the largest logit; float32 in another order of summation differs by 1e-5


def recorder(model: nn.Module, images: Tensor, sites: Sequence[str]) -> Recorder:
    """A function that records passes of `model`.

    They run on the network's exported graph where it can be exported; the graph must first give,
    on `images`, what the network itself gives, for a swap at each site too. Else on `Replay`,
    which takes any network.

    Args:
        model: a network, wrapped or bare, in inference mode.
        images: at least two; passes will have up to so many, N x C x H x W.
        sites: names of the sites that passes will be re-run from.

    Raises:
        InputError: a site never runs, runs more than once, or does not give N x C x H x W.
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
    """The network's graph, its pass and a swap at each site compared with the network's own.

    Raises:
        ExportError: they differ, or the graph cannot be made or run.
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
    """One swap that the graph yields, against the reference's own full pass of it."""
    swap = next(iter(recorded.swaps(site, other)), None)
    if swap is None:
        return
    maps = reference.maps[site].clone()
    chosen = int(swap.filters[0])
    maps[:, chosen] = other[:, chosen]
    expected = reference.from_site(site, maps)
    _compare(recorded.from_site(site, maps), expected, f"answers behind {site}")
    same = swap.filters == chosen
    _compare(swap.logits[same], expected[swap.images[same]], f"swap at {site}")


def _compare(given: Tensor, expected: Tensor, what: str) -> None:
    given, expected = given.detach(), expected.detach()
    limit = TOLERANCE * max(1.0, float(expected.abs().max()))
    if given.shape != expected.shape or not float((given - expected).abs().max()) <= limit:
        raise ExportError(f"the graph's {what} are not the network's")
