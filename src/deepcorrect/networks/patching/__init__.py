"""Activation patching: recording a forward pass and re-running it from a site."""

from deepcorrect.networks.patching._graph import Graph
from deepcorrect.networks.patching._graph_pass import GraphPass
from deepcorrect.networks.patching._nodes import ExportError
from deepcorrect.networks.patching._pass import Pass, Recorder, Swap
from deepcorrect.networks.patching._recorder import recorder
from deepcorrect.networks.patching._replay import Replay

__all__ = [
    "ExportError",
    "Graph",
    "GraphPass",
    "Pass",
    "Recorder",
    "Replay",
    "Swap",
    "recorder",
]
