"""Correcting a network in one call: choose, rank, fit the gate, train, and measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from deepcorrect import correction
from deepcorrect.correction import (
    ACCEPTED_LOSS,
    AdaptedModel,
    Budget,
    Others,
    UnitChoice,
    find_strength,
    fit_gate,
    read_budget,
    set_strength,
)
from deepcorrect.data import (
    Batches,
    can_hold_out,
    check_repeatable,
    count_of,
    hold_out,
    read_batches,
    smaller_batches,
)
from deepcorrect.deployment import correct_within, latency_note
from deepcorrect.distortions import Distortion, numbered_batches, parse_all
from deepcorrect.evaluation import Comparison, compare
from deepcorrect.experiments._choices import (
    BATCH_SIZE,
    LEAST_FOR_A_GATE,
    Choices,
    Gating,
    choose_settings,
    crop_of,
    within_minutes,
)
from deepcorrect.experiments._stages import fit_in_stages
from deepcorrect.experiments._training_speed import FirstBatches, reads_parts, seconds_per_image
from deepcorrect.networks import (
    choose,
    find,
    input_size_of,
    multiply_adds,
    original,
    weights_per_filter,
)
from deepcorrect.ranking import Ranking, rank
from deepcorrect.runtime import (
    InputError,
    console,
    device_of,
    forked_random,
    from_main,
    inference,
    to_device,
)
from deepcorrect.training import History, TrainingConfig, changed

HELD_BACK = 0.2
"""The share of the images that are held back to measure on."""
FOR_THE_GATE = 0.1
"""The share of the other images that only the gate's thresholds are raised with."""
MOST_FOR_THE_GATE = 500

DEFAULT_DISTORTIONS = ("gaussian_blur", "awgn")
"""The distortions that a network is corrected for if none are named: the paper's."""

Source = Ranking | Mapping[str, Sequence[int]] | Batches
Told = Callable[[Choices], None]


def correct(
    model: nn.Module,
    source: Source,
    beta: float | Mapping[str, float] | None = None,
    unit: UnitChoice | None = None,
    seed: int = 0,
    *,
    budget: Budget | Mapping[str, Any] | None = None,
    image: tuple[int, int, int] | None = None,
    distortions: Sequence[str | Distortion] | str | None = None,
    validation: Batches | None = None,
    ranking: Ranking | None = None,
    sites: Sequence[str] | str | None = None,
    gate: Gating = None,
    gate_scale: float | None = None,
    others: Others | None = None,
    minutes: float | None = None,
    checkpoint: str | Path | None = None,
    explain: Told | None = None,
    **training: Any,
) -> AdaptedModel:
    """Corrects a network: from images in one call, or from a ranking as the first of several steps.

    From images, it chooses the sites, what corrects them and how this is trained, ranks the
    filters, fits a gate, trains, and measures the network and the corrected one on images that
    nothing else read. The notes of the result (`config.notes`) hold the accuracies, costs and
    choices, and `save_pretrained` writes them into the model card. If nothing is gained beyond the
    interval, or more than half a point of clean accuracy is lost, this is printed on standard error
    and noted as `verdict`.

    From a ranking, or from the filters themselves, it returns the corrected network before any
    training (the paper's section IV), for `fit_gate` and `fit`.

    Args:
        model: The network to correct. It is never changed.
        source: Batches of (clean images N x C x H x W in [0, 1], labels), such as a DataLoader;
            labels of -1 stand for none. Or a `Ranking`. Or the filters to correct by site.
        beta: The share of each site's filters to correct, above 0 and up to 1: one value for all
            sites, or one per site (sites that are left out are not corrected). Without a budget the
            default is 0.5, or, from images and with `weights`, the budget `{"parameters": 0.5}`. It
            is ignored if `source` gives the filters directly.
        unit: What corrects the filters: `weights` (the default from images), with which they get
            weights of their own; a kind of unit, `full`, `bottleneck` (the default from a ranking),
            `lite`, `cifar`, `rank_constrained` or `inverted`; or `weights+KIND` for both. Or a
            mapping with a `kind` and changes to it, such as `{"kind": "full", "separable": True}`;
            or a `UnitConfig`; or a mapping from each site to one of these.
        seed: The seed of everything random.
        budget: The largest accepted cost of the adapter, in place of `beta`: `{"parameters": X}` or
            `{"multiply_adds": X}`, where X up to 1 is a fraction of the network's own cost; or
            `{"latency": X, "runtime": "torch"}`, the added time as a fraction of the network's, see
            `within_latency`. The priorities then determine the number of filters per site.
        image: The channels, height and width of the network's input, for a bare network whose sites
            do not state their number of filters.
        distortions: Distortion specs such as `awgn:10,20`; None takes Gaussian blur and noise.
        validation: Other images to measure on; None holds back a fifth of `source`.
        ranking: A ranking of the filters that was made before; None ranks them.
        sites: The sites to rank, or a choice by the network's structure, see `rank`; None ranks all
            convolutions and transformers' MLPs.
        gate: The share of undistorted images that a gate may send to the corrected network, or
            `none` for no gate.
        gate_scale: The smallest scale of the images that the gate is fitted to, see `fit_gate`.
        others: Whose answers images get that the gate takes for clean: the `network`'s (the
            default), or the `mean` of both networks', for distortions that nobody knows, see
            `fit_gate`.
        minutes: The longest accepted training time; fewer epochs are trained if it requires this.
        checkpoint: A file from which an interrupted training continues, see `fit`.
        explain: Called with the choices before anything is ranked or trained.
        **training: Settings of `TrainingConfig`, such as `epochs=5`. `batch_size` is the largest
            number of images per step; batches that can be divided are cut to it.

    Returns:
        The corrected network.

    Raises:
        InputError: A choice, a site, a filter or an image is not accepted.

    Example:
        >>> import deepcorrect as dc
        >>> model = dc.load_model("digits_cnn")
        >>> digits = dc.open_dataset("digits:train", model.preprocessing).sample(200, seed=0)
        >>> adapted = dc.correct(model, dc.loader(digits, 40), distortions="awgn:80", epochs=2)
        >>> adapted.config.notes["measured"]["images"], adapted.config.gate.kinds
        (40, ('awgn',))
        >>> multiply_adds = adapted.config.notes["cost"]["multiply_adds"]
        >>> multiply_adds  # more than the network's own
        0

        From the filters of a site, before training:

        >>> corrected = dc.correct(model, {"features.0": [1, 5]}, unit="lite")
        >>> images = next(iter(dc.loader(digits, 2)))[0]
        >>> bool((corrected(images) == model(images)).all())
        True
    """
    if isinstance(source, Mapping) or hasattr(source, "top"):
        about = {"distortions": distortions, "validation": validation, "sites": sites, "gate": gate}
        about |= {"gate_scale": gate_scale, "others": others, "minutes": minutes}
        about |= {"checkpoint": checkpoint}
        _refuse({**about, "ranking": ranking, **training})
        return _before_training(model, source, beta, unit, seed, budget, image)
    images: Any = source
    check_repeatable(images)
    size = changed(TrainingConfig(batch_size=BATCH_SIZE), training).batch_size
    train, for_gate, held_back = _divided(smaller_batches(images, size), validation, gate, seed)
    count = from_main(lambda: _count(train))
    first = _first_images(model, train, seed)
    pixels = input_size_of(model, first)
    kinds = parse_all(distortions or DEFAULT_DISTORTIONS, pixels)
    given: dict[str, Any] = {"unit": unit, "beta": beta, "budget": budget}
    given |= {"gate": gate, "gate_scale": gate_scale, "others": others, "training": training}
    choices = choose_settings(
        *(count, pixels),
        **given,
        sites=_sites(model, first, ranking, sites),
        sites_given=bool(sites or ranking),
        ranked=ranking and ranking.images,
        comparable=ranking is None or ranking.gains,
        croppable=(crop := crop_of(training, pixels)) == 1 or reads_parts(model, first, crop),
    )
    if minutes is not None:
        kept = _beside(checkpoint, "minutes")
        speed = seconds_per_image(model, train, kinds, choices, seed, kept)
        choices = within_minutes(choices, minutes, count, speed)
    if explain:
        explain(choices)
    ranking = ranking or _ranked(model, train, kinds, choices, seed)
    made = (model, ranking, train, for_gate, kinds, choices, seed, first, checkpoint)
    adapted, history, strength = _trained(*made)
    found = compare(model, adapted, held_back, kinds, seed, choices.training.precision, "measuring")
    _note(adapted, model, found, history, strength, choices, first)
    return adapted


def _refuse(about_images: Mapping[str, Any]) -> None:
    """Refuses arguments that go with images where a ranking or filters were given."""
    wrong = [name for name, value in about_images.items() if value is not None]
    if wrong:
        raise InputError(
            f"{wrong[0]} goes with images, from which everything is trained and measured; for a "
            "ranking or filters give it to fit_gate or fit"
        )


def _before_training(
    model: nn.Module,
    source: Any,
    beta: Any,
    unit: UnitChoice | None,
    seed: int,
    budget: Budget | Mapping[str, Any] | None,
    image: tuple[int, int, int] | None,
) -> AdaptedModel:
    """The corrected network of a ranking, or of the filters of each site."""
    if budget is not None and read_budget(budget).latency is not None:
        return correct_within(model, source, budget, unit, seed, beta=beta)
    kind = unit or "bottleneck"
    return correction.correct(model, source, beta, kind, seed, budget=budget, image=image)


def _divided(
    images: Batches, validation: Batches | None, gate: Gating, seed: int
) -> tuple[Batches, Batches, Batches]:
    """The images to train on, those to raise the gate's thresholds with, and those to measure on.

    The first two are the same where images cannot be divided or there is no gate.
    """
    train, held_back = images, validation
    if held_back is None:
        train, held_back = hold_out(images, HELD_BACK, seed)
    if gate == "none" or not can_hold_out(train) or (count := _count(train)) < LEAST_FOR_A_GATE:
        return train, FirstBatches(train, MOST_FOR_THE_GATE), held_back
    share = min(FOR_THE_GATE, MOST_FOR_THE_GATE / count)
    return *hold_out(train, share, seed), held_back


def _sites(
    model: nn.Module, images: Tensor, ranking: Ranking | None, sites: Sequence[str] | str | None
) -> dict[str, bool]:
    """The sites to rank, or those of a ranking, and whether their filters have weights."""
    if ranking is not None:
        found = find(model, ranking.sites)
    else:
        with inference(model):
            found = choose(model, images[:2], sites)
    return {name: bool(weights_per_filter(original(each))) for name, each in found.items()}


def _first_images(model: nn.Module, batches: Batches, seed: int) -> Tensor:
    """The images of the first batch, on the model's device."""
    with forked_random(seed=seed):  # the same images when it is continued
        first = next(numbered_batches(batches, "to correct the network with"))
    return to_device(first.images, device_of(model))


def _count(batches: Batches) -> int:
    """The number of images of a loader; where it is not known, the loader is read."""
    return count_of(batches) or sum(len(images) for images, _ in read_batches(batches))


def _ranked(
    model: nn.Module, train: Batches, kinds: Sequence[Distortion], choices: Choices, seed: int
) -> Ranking:
    """A ranking on the first of the training images."""
    with forked_random(seed=seed):  # the same images when it is continued
        some = FirstBatches(train, choices.ranked)
        return rank(model, some, kinds, sites=choices.sites, seed=seed)


def _trained(
    model: nn.Module,
    ranking: Ranking,
    train: Batches,
    for_gate: Batches,
    kinds: Sequence[Distortion],
    choices: Choices,
    seed: int,
    images: Any,
    checkpoint: str | Path | None,
) -> tuple[AdaptedModel, History, float]:
    """Corrects the network: fits the gate, trains, chooses the strength, and raises the gate."""
    adapted = _untrained(model, ranking, choices, seed, images, _beside(checkpoint, "latency"))
    if choices.gate is not None:
        fitted = partial(fit_gate, adapted, train, kinds, choices.gate, seed=seed)
        scale, others = choices.gate_scale, choices.others or "network"
        adapted.set_gate(from_main(lambda: fitted(scale=scale, others=others)))
    history = fit_in_stages(adapted, train, kinds, choices.training, seed, checkpoint)
    if choices.gate is None:
        return adapted, history, 1.0
    found = partial(find_strength, adapted, for_gate, kinds, seed)
    chosen = from_main(lambda: found(precision=choices.training.precision))
    set_strength(adapted, chosen)
    if chosen.strength < 1:
        console().print(f"strength: {chosen.strength:g} of what was trained helps most")
    return adapted, history, chosen.strength


def _beside(checkpoint: str | Path | None, name: str) -> Path | None:
    """A file that keeps what was measured, so that a training can be continued with it."""
    return None if checkpoint is None else Path(checkpoint).with_suffix(f".{name}.json")


def _untrained(
    model: nn.Module,
    ranking: Ranking,
    choices: Choices,
    seed: int,
    images: Any,
    kept: Path | None,
) -> AdaptedModel:
    """The corrected network before training."""
    if choices.budget is None:
        return correction.correct(model, ranking, choices.beta, choices.unit, seed)
    beta: Any = choices.beta
    return correct_within(
        *(model, ranking, choices.budget, choices.unit, seed),
        beta=beta,
        images=images[:1],
        kept=kept,
    )


def _latency(adapted: AdaptedModel, choices: Choices, images: Any) -> dict[str, Any] | None:
    """The measured latency, in the budget's runtime; None for a network that cannot be fused."""
    runtime = "torch" if choices.budget is None else read_budget(choices.budget).runtime
    return latency_note(adapted, runtime, images)


def _note(
    adapted: AdaptedModel,
    model: nn.Module,
    found: Comparison,
    history: History,
    strength: float,
    choices: Choices,
    images: Any,
) -> None:
    """Notes what was chosen, measured and found, and says it where the correction fell short."""
    before, after = (multiply_adds(each, images[:1]) for each in (model, adapted))
    notes: dict[str, Any] = {
        "distortions": [asdict(curve.distortion) for curve in found.after.curves.values()],
        "images_seen": history.images_seen,
        "training_seconds": round(history.seconds, 2),
        "epochs": len(history.epochs),
        "strength": strength,
        "labels": found.after.target == "labels",
        "measured": {"data": "images held back from training", **found.to_json()},
        "cost": {
            "multiply_adds": after - before,
            "base_multiply_adds": before,
            "base_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "latency": from_main(lambda: _latency(adapted, choices, images[:1])),
        },
        "choices": {name: value for name, value, _ in choices.explained()},
        "verdict": verdict(found),
    }
    adapted.config = adapted.config.model_copy(update={"notes": notes})
    if notes["verdict"]:
        console().print(f"WARNING: {notes['verdict']}", style="bold red", markup=False)


def verdict(found: Comparison) -> str:
    """What is wrong with a correction, and what to try; empty if it helps and does no harm."""
    gain, interval, clean = (100 * x for x in (found.gain, found.interval, found.clean_gain))
    if found.gain <= found.interval:
        return (
            f"the correction gains {gain:+.1f} points +- {interval:.1f} on {found.after.images} "
            "images held back from training, which is not more than its interval: give more "
            "images, train for more epochs, or name only distortions that cost the network accuracy"
        )
    if -found.clean_gain > max(ACCEPTED_LOSS, found.clean_interval):
        return (
            f"the correction changes accuracy on clean images by {clean:+.1f} points: correct "
            "fewer filters (beta), use a smaller gate, or a larger clean_share"
        )
    return ""
