"""Sites: finding convolutions, reading their outputs, re-running what is behind them."""

from deepcorrect.sites._find import Edit, check_once, convolutions, find, gradients, tap
from deepcorrect.sites._graph import Graph
from deepcorrect.sites._graph_pass import GraphPass
from deepcorrect.sites._nodes import ExportError
from deepcorrect.sites._pass import Pass, Recorder, Swap
from deepcorrect.sites._recorder import recorder
from deepcorrect.sites._replay import Replay

__all__ = [
    "Edit",
    "ExportError",
    "Graph",
    "GraphPass",
    "Pass",
    "Recorder",
    "Replay",
    "Swap",
    "check_once",
    "convolutions",
    "find",
    "gradients",
    "recorder",
    "tap",
]
