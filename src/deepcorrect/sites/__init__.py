"""Sites: finding convolutions, reading their outputs, re-running what is behind them."""

from deepcorrect.sites._find import Edit, convolutions, find, gradients, tap
from deepcorrect.sites._graph import ExportError, Graph
from deepcorrect.sites._pass import Pass, Recorder, Swap
from deepcorrect.sites._recorder import recorder
from deepcorrect.sites._replay import Replay

__all__ = [
    "Edit",
    "ExportError",
    "Graph",
    "Pass",
    "Recorder",
    "Replay",
    "Swap",
    "convolutions",
    "find",
    "gradients",
    "recorder",
    "tap",
]
