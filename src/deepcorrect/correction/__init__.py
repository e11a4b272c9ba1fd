"""Correction units on a network: adapters, gates, budgets, and saved adapters."""

from deepcorrect.correction._adapter_set import AdapterSet, load_adapters
from deepcorrect.correction._budget import (
    Budget,
    Runtime,
    best_options,
    check_gains,
    read_budget,
    select_within_budget,
)
from deepcorrect.correction._checkpoint import ADAPTER_FILES, CONFIG_FILE
from deepcorrect.correction._config import AdapterConfig
from deepcorrect.correction._correct import correct, load_adapter
from deepcorrect.correction._corrected_model import AdaptedModel
from deepcorrect.correction._filter_weights import FilterWeights
from deepcorrect.correction._fit_gate import fit_gate, gate_readings, looks_distorted
from deepcorrect.correction._gate import Gate, GateConfig, Others
from deepcorrect.correction._gated_copy import GatedCopy
from deepcorrect.correction._gated_model import GatedModel
from deepcorrect.correction._hub import upload
from deepcorrect.correction._push import push_to_hub
from deepcorrect.correction._raise_gate import ACCEPTED_LOSS, raise_gate
from deepcorrect.correction._shipped import shipped_adapters
from deepcorrect.correction._strength import (
    STRENGTHS,
    Strength,
    choose_strength,
    find_strength,
    set_strength,
)
from deepcorrect.correction._unit_config import (
    DESCRIPTIONS,
    WEIGHTS,
    UnitChoice,
    UnitConfig,
    check_unit,
    hidden_width,
    parts_at,
    unit_config,
    unit_costs,
)
from deepcorrect.correction._units import CorrectionUnit, spread_out

__all__ = [
    "ACCEPTED_LOSS",
    "ADAPTER_FILES",
    "CONFIG_FILE",
    "DESCRIPTIONS",
    "STRENGTHS",
    "WEIGHTS",
    "AdaptedModel",
    "AdapterConfig",
    "AdapterSet",
    "Budget",
    "CorrectionUnit",
    "FilterWeights",
    "Gate",
    "GateConfig",
    "GatedCopy",
    "GatedModel",
    "Others",
    "Runtime",
    "Strength",
    "UnitChoice",
    "UnitConfig",
    "best_options",
    "check_gains",
    "check_unit",
    "choose_strength",
    "correct",
    "find_strength",
    "fit_gate",
    "gate_readings",
    "hidden_width",
    "load_adapter",
    "load_adapters",
    "looks_distorted",
    "parts_at",
    "push_to_hub",
    "raise_gate",
    "read_budget",
    "select_within_budget",
    "set_strength",
    "shipped_adapters",
    "spread_out",
    "unit_config",
    "unit_costs",
    "upload",
]
