"""Sites: finding and choosing them, reading their maps, re-running what is behind them."""

from deepcorrect.sites._choose import choose
from deepcorrect.sites._find import (
    Edit,
    convolutions,
    filter_count,
    find,
    gradients,
    mlp_channels,
    tap,
)
from deepcorrect.sites._graph import Graph
from deepcorrect.sites._graph_pass import GraphPass
from deepcorrect.sites._layout import Layout, layout_of
from deepcorrect.sites._nodes import ExportError
from deepcorrect.sites._pass import Pass, Recorder, Swap
from deepcorrect.sites._recorder import recorder
from deepcorrect.sites._replay import Replay

__all__ = [
    "Edit",
    "ExportError",
    "Graph",
    "GraphPass",
    "Layout",
    "Pass",
    "Recorder",
    "Replay",
    "Swap",
    "choose",
    "convolutions",
    "filter_count",
    "find",
    "gradients",
    "layout_of",
    "mlp_channels",
    "recorder",
    "tap",
]
