"""The fair competitor of a correction: a fine-tuned copy behind the same gate, tuned as well."""

from __future__ import annotations

from typing import Any

from benchmarks.kept import PARETO, SEARCH, read_kept
from deepcorrect.alternatives import finetune
from deepcorrect.correction import GatedCopy, choose_strength, fit_gate
from deepcorrect.data import ImageSet, hold_out, loader
from deepcorrect.evaluation import evaluate
from deepcorrect.networks import Classifier
from deepcorrect.training import fit

COPY = "fine-tuned copy, gated"
OBJECTIVE = {"logits": 1.0, "activations": 16.0}
"""That of a correction on small inputs, as are the clean share and the levels."""
BATCH, FALSE_ALARMS, FOR_GATE = 32, 0.05, 0.05
SETTINGS: tuple[dict[str, Any], ...] = tuple(
    {"optimizer": optimizer, "learning_rate": rate}
    for optimizer in ("adamw", "muon")
    for rate in (1e-3, 2e-3, 4e-3, 8e-3)
)
"""What is tried for a copy; each is trained in full."""


def gated_copy(
    subject: Classifier,
    images: ImageSet,
    judged: ImageSet,
    kind: str,
    epochs: int,
    seed: int,
) -> tuple[GatedCopy, dict[str, Any]]:
    """A fine-tuned copy behind a gate, with the best of `SETTINGS`.

    Where a copy of the same network under the same distortion is kept, its settings are taken.

    Args:
        subject: the network.
        images: the training images, of which a share chooses the strength and raises the gate.
        judged: the validation images that choose the settings.
        kind: the distortion.
        epochs: how often the images are shown.
        seed: of the training.

    Returns:
        The copy, and its settings.
    """
    shown, for_gate = hold_out(loader(images, BATCH, shuffle=True), FOR_GATE, seed)
    validation = loader(judged, 250)
    found = []
    for settings in chosen_before(subject.name, kind) or SETTINGS:
        copy = GatedCopy(subject, finetune(subject))
        fit_gate(copy, shown, kind, FALSE_ALARMS, seed=seed)
        fit(
            *(copy, shown, kind),
            seed=seed,
            task=f"copy, {settings}",
            epochs=epochs,
            clean_share=0,
            levels="costly",
            objective=OBJECTIVE,
            **settings,
        )
        choose_strength(copy, for_gate, kind, seed, precision="auto")
        found.append((evaluate(copy, validation, [kind], seed, "auto").mean_top1, settings, copy))
        print(f"copy, {settings}: {found[-1][0]:.4f} on validation images", flush=True)
    _, settings, copy = max(found, key=lambda each: each[0])
    return copy, settings


def chosen_before(network: str, kind: str) -> list[dict[str, Any]] | None:
    """The settings of a copy that is kept."""
    for each in [each for path in (PARETO, SEARCH) for each in read_kept(path)]:
        of = each["trial"], each["distortion"]
        if of == (COPY, kind) and network in (each["network"], f"cifar_{each['network']}"):
            return [each["chosen"]]
    return None
