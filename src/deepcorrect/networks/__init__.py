"""Classifiers and their layers: fingerprints, features, costs, sites and hooks."""

from deepcorrect.networks._branches import Branches, input_images, logits_in, mean_answers, ungated
from deepcorrect.networks._choose_layers import choose
from deepcorrect.networks._classifier import (
    Classifier,
    Wrapper,
    frozen,
    input_size_of,
    logits_of,
    network_of,
    preprocessing_of,
    refuse_torchscript,
    running_modules,
    trainable_parameters,
    uncompiled,
    unparallel,
)
from deepcorrect.networks._constants import WithConstants
from deepcorrect.networks._cost import Costs, Latency, costs, latencies, multiply_adds
from deepcorrect.networks._depthwise import in_float32, slow_in_bfloat16
from deepcorrect.networks._features import Read, features
from deepcorrect.networks._fingerprint import (
    find_subnetwork,
    fingerprint,
    fingerprint_by_names,
    innermost,
    tensors_digest,
)
from deepcorrect.networks._folding import Affine, affine, affine_of, folded
from deepcorrect.networks._hooks import (
    Edit,
    arguments_of,
    forward_hooks,
    forward_pre_hooks,
    gradients,
    require_one_run,
    site_hooks,
    tap,
)
from deepcorrect.networks._interpolate import interpolate
from deepcorrect.networks._layers import (
    convolutions,
    find,
    mlp_channels,
    stated_width,
    weights_per_filter,
)
from deepcorrect.networks._layout import Layout, LayoutRule, layout_of, layout_rule
from deepcorrect.networks._match_sites import match_sites
from deepcorrect.networks._outputs import (
    Logits,
    Reading,
    as_logits,
    output_rows,
    read_outputs,
    without_meaning,
)
from deepcorrect.networks._sharing import Replace, Replacement, original, shared_copy
from deepcorrect.networks._site_facts import SiteFacts, Sketch, describe
from deepcorrect.networks._structure import CHOICES, Structure, parse_choice, structure_of

__all__ = [
    "CHOICES",
    "Affine",
    "Branches",
    "Classifier",
    "Costs",
    "Edit",
    "Latency",
    "Layout",
    "LayoutRule",
    "Logits",
    "Read",
    "Reading",
    "Replace",
    "Replacement",
    "SiteFacts",
    "Sketch",
    "Structure",
    "WithConstants",
    "Wrapper",
    "affine",
    "affine_of",
    "arguments_of",
    "as_logits",
    "choose",
    "convolutions",
    "costs",
    "describe",
    "features",
    "find",
    "find_subnetwork",
    "fingerprint",
    "fingerprint_by_names",
    "folded",
    "forward_hooks",
    "forward_pre_hooks",
    "frozen",
    "gradients",
    "in_float32",
    "innermost",
    "input_images",
    "input_size_of",
    "interpolate",
    "latencies",
    "layout_of",
    "layout_rule",
    "logits_in",
    "logits_of",
    "match_sites",
    "mean_answers",
    "mlp_channels",
    "multiply_adds",
    "network_of",
    "original",
    "output_rows",
    "parse_choice",
    "preprocessing_of",
    "read_outputs",
    "refuse_torchscript",
    "require_one_run",
    "running_modules",
    "shared_copy",
    "site_hooks",
    "slow_in_bfloat16",
    "stated_width",
    "structure_of",
    "tap",
    "tensors_digest",
    "trainable_parameters",
    "uncompiled",
    "ungated",
    "unparallel",
    "weights_per_filter",
    "without_meaning",
]
