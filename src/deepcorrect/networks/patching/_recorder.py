"""Choosing the fastest exact way to record and re-run a network's passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from deepcorrect.networks.patching._graph import Graph
from deepcorrect.networks.patching._graph_pass import GraphPass
from deepcorrect.networks.patching._nodes import ExportError
from deepcorrect.networks.patching._pass import Pass, Recorder
from deepcorrect.networks.patching._replay import Replay
from deepcorrect.runtime import console, exact_float32

TOLERANCE = 1e-3
"""The largest accepted difference as a fraction of the largest logit. Float32 sums in another order
differ by about 1e-5."""


def recorder(model: nn.Module, images: Tensor, sites: Sequence[str]) -> Recorder:
    """Makes a function that records passes of a model.

    The passes run on the network's exported graph if it can be exported and if it reproduces the
    network's logits, including those of swaps at each site. This is checked on `images`, and again
    on the first block of each other size, such as the last one. Where the graph differs, passes
    run on `Replay`, which supports any network, and a note says so.

    Args:
        model: A network, wrapped or bare, in inference mode.
        images: At least two images, N x C x H x W. Later passes must not have more.
        sites: The names of the sites to re-run passes from.

    Returns:
        The recorder.

    Raises:
        InputError: A site does not run exactly once, or its output contains no maps.
    """
    with exact_float32():
        reference = Replay(model, images, sites)
    try:
        with _comparison(images):
            graph = Graph(model, images, list(reference.maps))
            _check(graph, images, reference)
    except ExportError as reason:
        console().print(
            f"note: re-running module by module, as the network's graph cannot be used ({reason})"
        )
        return partial(Replay, model, sites=sites)
    return _GraphRecorder(model, graph, sites)


class _GraphRecorder:
    """Records passes on a graph that is checked for each block size before it is used."""

    def __init__(self, model: nn.Module, graph: Graph, sites: Sequence[str]) -> None:
        self._model, self._graph, self._sites = model, graph, sites
        self._agrees = {graph.rows: True}

    def __call__(self, images: Tensor) -> Pass:
        count = len(images)
        if count not in self._agrees:
            self._agrees[count] = self._agrees_on(images)
        if self._agrees[count]:
            return GraphPass(self._graph, images)
        return Replay(self._model, images, self._sites)

    def _agrees_on(self, images: Tensor) -> bool:
        try:
            with _comparison(images):
                _check(self._graph, images, Replay(self._model, images, self._sites))
        except ExportError as reason:
            console().print(
                f"note: re-running blocks of {len(images)} images module by module, as the "
                f"network's graph cannot be used for them ({reason})"
            )
            return False
        return True


@contextmanager
def _comparison(images: Tensor) -> Iterator[None]:
    """Full precision and no gradients; whatever cannot be run is an `ExportError`."""
    try:
        with torch.no_grad(), exact_float32(), torch.autocast(images.device.type, enabled=False):
            yield
    except (RuntimeError, KeyError, TypeError, IndexError) as error:
        raise ExportError(f"{type(error).__name__}: {error}") from error


def _check(graph: Graph, images: Tensor, reference: Replay) -> None:
    """Compares a graph's pass, and swaps at each site, with the network's.

    Raises:
        ExportError: The results differ.
    """
    recorded = GraphPass(graph, images)
    _compare(recorded.logits, reference.logits, "answers")
    for site, maps in reference.maps.items():
        _compare(recorded.maps[site], maps, f"maps of {site}")
        _check_swaps(recorded, reference, site)


def _check_swaps(recorded: Pass, reference: Replay, site: str) -> None:
    """Compares the first block of swaps on the graph with full passes of the reference.

    A map of the first image stays as it is. Its swap is left out, so that the block holds pairs of
    several filters and its rows are not the images in order, as in most blocks of a ranking.
    """
    maps = reference.maps[site]
    other = maps.flip(0) / 2 + maps.abs().mean()
    other[0, 0] = maps[0, 0]
    swap = next(iter(recorded.swaps(site, other)), None)
    if swap is None:
        return
    images = swap.images.tolist()
    first = {images.index(image) for image in images}
    last = {row for row, image in enumerate(images) if image not in images[row + 1 :]}
    for chosen in (first, last - first):  # a pass of the reference takes one swap per image
        if not chosen:
            continue
        rows = torch.tensor(sorted(chosen), device=maps.device)
        swapped, filters = swap.images[rows], swap.filters[rows]
        mixed = maps.clone()
        mixed[swapped, filters] = other[swapped, filters]
        expected = reference.from_site(site, mixed)
        _compare(recorded.from_site(site, mixed), expected, f"answers after {site}")
        _compare(swap.logits[rows], expected[swapped], f"swap at {site}")


def _compare(given: Tensor, expected: Tensor, what: str) -> None:
    limit = TOLERANCE * max(1.0, float(expected.abs().max()))
    if given.shape != expected.shape or not float((given - expected).abs().max()) <= limit:
        raise ExportError(f"the graph's {what} differ from the network's")
