"""A classifier and its layers: fingerprint, features, cost, sites and hooks."""

from deepcorrect.networks._choose_layers import choose
from deepcorrect.networks._classifier import (
    Classifier,
    Wrapper,
    input_size_of,
    network_of,
    preprocessing_of,
    uncompiled,
)
from deepcorrect.networks._cost import Costs, costs, multiply_adds, throughput
from deepcorrect.networks._features import Read, features
from deepcorrect.networks._fingerprint import (
    contents,
    find_inside,
    fingerprint,
    fingerprint_by_names,
    innermost,
    same_sites,
)
from deepcorrect.networks._hooks import Edit, gradients, refuse_unless_once, tap
from deepcorrect.networks._layers import convolutions, filter_count, find, mlp_channels
from deepcorrect.networks._layout import Layout, layout_of

__all__ = [
    "Classifier",
    "Costs",
    "Edit",
    "Layout",
    "Read",
    "Wrapper",
    "choose",
    "contents",
    "convolutions",
    "costs",
    "features",
    "filter_count",
    "find",
    "find_inside",
    "fingerprint",
    "fingerprint_by_names",
    "gradients",
    "innermost",
    "input_size_of",
    "layout_of",
    "mlp_channels",
    "multiply_adds",
    "network_of",
    "preprocessing_of",
    "refuse_unless_once",
    "same_sites",
    "tap",
    "throughput",
    "uncompiled",
]
