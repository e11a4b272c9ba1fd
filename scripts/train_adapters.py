"""Trains the adapters of EfficientNet-Lite0 that the package ships, without a label.

    python scripts/train_adapters.py NAME --pictures parquet:caltech101/train.parquet
        [--judged parquet:imagenet_val/test.parquet] [--judged-images N]
        [--raised-on parquet:imagenet_sample/test.parquet] [--out DIR]
        [--trial] [--copy] [--trained ADAPTER] [--rate R] [--crop-epochs N] [--epochs N] [--seed N]

Any pictures serve; the shipped adapters saw Caltech-101's training pictures. Ninety in a hundred
are trained on: first as random crops, which cost a third of whole pictures and do not change the
scale of a distortion, then whole. Settings are chosen by the agreement with the clean network's
answers on the others. These choose the strength and raise the gate's thresholds, too, unless
`--raised-on` names other pictures, or the recipe takes some of the pictures to judge on for it,
which are then not judged.
What is finished is kept in runs/adapters, so that a stopped training goes on. With `--judged`, the
accuracy on ImageNet's validation pictures goes into the card; nothing else is chosen by it.
`imagenet-c` is not shipped: it is for `benchmarks.evidence.imagenet_c`. With `--copy`, the fair
competitor is trained in the adapter's place, a fine-tuned copy behind the same gate: its weights
as they are trained go into `copy.safetensors`, and its strength and gate beside it. With
`--trained`, nothing is trained: that adapter gets a gate and a strength anew, as a fraction of its
present one.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import deepcorrect as dc
from deepcorrect.correction import GatedModel, Others, Strength, find_strength, set_strength
from deepcorrect.correction._checkpoint import read_config, write_card
from deepcorrect.data import Batches, ImageSet, hold_out, random_part
from deepcorrect.distortions import GROUPS
from deepcorrect.evaluation import Comparison, compare
from deepcorrect.experiments._choices import CROP
from deepcorrect.experiments._stages import RATE
from deepcorrect.networks import multiply_adds
from deepcorrect.runtime import files

WORK = Path("runs/adapters")
SHIPPED = Path(__file__).parent.parent / "src/deepcorrect/correction/shipped/efficientnet_lite0"
BATCH = 32
JUDGED = 60
OBJECTIVE = {"logits": 1.0, "features": 2.0}
SHARE_FOR_GATE = 0.1


@dataclass(frozen=True)
class Recipe:
    """What an adapter corrects, and what differs from the defaults of `dc.correct`.

    Attributes:
        summary: What `deepcorrect list adapters` says.
        distortions: The distortions and their levels at 224 pixels.
        false_alarms: The share of clean pictures that the gate may correct.
        others: Whose answers pictures get that the gate takes for clean, as in `dc.fit_gate`.
        parameters: The size of the adapter, as a fraction of the network's; a quarter takes 2.4 MB
            in half precision.
        ranked: The number of pictures that filters are ranked on, at every level.
        raised: The number of pictures that the strength is chosen with and the gate is raised.
        raised_there: Whether these are among the pictures to judge on, without their labels. They
            are not judged then.
        start: The shipped adapter whose filters and weights it starts from, and which then needs no
            ranking of its own.
        shipped: Whether the package ships it.
    """

    summary: str
    distortions: tuple[str, ...]
    false_alarms: float = 0.02
    others: Others = "network"
    parameters: float = 0.25
    ranked: int = 32
    raised: int = 240
    raised_there: bool = False
    start: str | None = None
    shipped: bool = True


RECIPES = {
    "blur-noise": Recipe(
        "Gaussian blur and noise", ("gaussian_blur:1,2,3,4,5,6", "awgn:10,20,40,60,80,100")
    ),
    "mixture": Recipe(
        "blur, noise, few pixels and little light, where nobody says which of them it is",
        (
            "gaussian_blur:1,2,3,4,5,6",
            "awgn:10,20,40,60,80,100",
            "resize",
            "bit_depth",
            "low_light",
            "spatter",
        ),
        raised=150,
        raised_there=True,
        start="efficientnet_lite0/blur-noise",
    ),
    "imagenet-c": Recipe(
        "the fifteen corruptions of ImageNet-C, where nobody says which of them it is",
        GROUPS["imagenet_c"],
        others="mean",
        raised=96,
        start="efficientnet_lite0/mixture",
        shipped=False,
    ),
}


def divided(pictures: ImageSet) -> tuple[Batches, Batches]:
    """Loaders of the pictures to train on, in a random order, and of those that are kept out."""
    return hold_out(dc.loader(pictures, BATCH, shuffle=True), SHARE_FOR_GATE)


def before_training(
    name: str, network: dc.Classifier, pictures: Batches, seed: int
) -> dc.AdaptedModel:
    """The adapter that another one gives, or that of a ranking, which is kept."""
    recipe = RECIPES[name]
    if recipe.start is not None:
        return dc.load_adapter(network, recipe.start)
    folder = WORK / name / "ranking"
    if not folder.exists():
        some = random_part(pictures, recipe.ranked)
        dc.rank(network, some, list(recipe.distortions)).save(folder)
    budget = {"parameters": recipe.parameters}
    ranking = dc.load_ranking(folder)
    return dc.correct(network, ranking, unit="weights", budget=budget, seed=seed)


def train(given: argparse.Namespace) -> None:
    """Ranks, fits the gate, trains, chooses the strength, and raises the gate's thresholds."""
    recipe, seed = RECIPES[given.name], given.seed
    kinds = list(recipe.distortions)
    network = dc.load_model("efficientnet_lite0")
    every = dc.open_dataset(given.pictures, network.preprocessing).without_labels()
    shown, kept = divided(every)
    if given.copy:
        corrected = dc.GatedCopy(network, dc.finetune(network))
    elif given.trained is not None:
        corrected = dc.load_adapter(network, given.trained)
    else:
        corrected = before_training(given.name, network, shown, seed)
    rate, others = recipe.false_alarms, recipe.others
    dc.fit_gate(corrected, shown, kinds, rate, scale=0.5, others=others)
    if isinstance(corrected, dc.AdaptedModel) and given.trained is not None:
        before = corrected.config.notes
        seen, seconds = before["images_seen"], before["training_seconds"]
        corrected.config = corrected.config.model_copy(update={"notes": {}})
    else:
        (seen, seconds), before = shown_in_parts(given, corrected, shown, kinds), {}
    some = random_part(kept, JUDGED)
    if given.trial:
        corrected.set_gate(None)
        compared(network, corrected, some, kinds)
        return
    raising, judged = divided_to_judge(given, network, kept)
    chosen = find_strength(corrected, raising, kinds, seed, precision="auto")
    if isinstance(corrected, dc.GatedCopy):
        write_copy(given.out or WORK / given.name, corrected, chosen)
        return
    set_strength(corrected, chosen)
    agreement = compared(network, corrected, some, kinds)
    notes = {
        "summary": recipe.summary,
        "model": "efficientnet_lite0",
        "license": "apache-2.0",
        "data": "Caltech-101's training pictures, without labels",
        "labels": False,
        "distortions": [asdict(curve.distortion) for curve in agreement.after.curves.values()],
        "images_seen": seen,
        "training_seconds": round(seconds, 1),
        "strength": round(before.get("strength", 1.0) * chosen.strength, 4),
    }
    if judged is not None:
        notes |= {
            "measured": {
                "data": "ImageNet's validation set",
                **compared(network, corrected, dc.loader(judged, 50), kinds).to_json(),
            },
            "cost": cost(network, corrected),
        }
    own = SHIPPED / given.name if recipe.shipped else WORK / given.name / "adapter"
    folder = corrected.save_pretrained(given.out or own, notes, half=True)
    write_card(folder, read_config(folder), f"efficientnet_lite0/{given.name}")
    print(f"wrote {folder}")


def shown_in_parts(
    given: argparse.Namespace, corrected: GatedModel, shown: Batches, kinds: list[str]
) -> tuple[int, float]:
    """Trains with parts of the pictures and then with whole ones; the images seen, and seconds."""
    copy = "copy-" if given.copy else ""
    trial = f"{copy}rate-{given.rate:g}-{given.crop_epochs}-{given.epochs}-{given.seed}"
    seen, seconds = 0, 0.0
    for part, crop, epochs, rate in (
        ("crops", CROP, given.crop_epochs, given.rate),
        ("whole", 1.0, given.epochs, given.rate * RATE),
    ):
        if not epochs:
            continue
        history = dc.fit(
            *(corrected, shown, kinds),
            seed=given.seed,
            checkpoint=WORK / given.name / trial / f"{part}.pt",
            task=part,
            epochs=epochs,
            learning_rate=rate,
            clean_share=0.1,
            objective=OBJECTIVE,
            augmentation=dc.Augmentation(crop=crop, flip=True),
        )
        seen, seconds = seen + history.images_seen, seconds + history.seconds
    return seen, seconds


def divided_to_judge(
    given: argparse.Namespace, network: dc.Classifier, kept: Batches
) -> tuple[Batches, ImageSet | None]:
    """The pictures to choose the strength and raise the gate with, and those to judge on."""
    recipe = RECIPES[given.name]
    raising, judged = random_part(kept, recipe.raised, seed=1), None
    if given.judged is not None:
        judged = dc.open_dataset(given.judged, network.preprocessing)
        judged = judged.sample(min(given.judged_images, len(judged)), seed=0)
    if recipe.raised_there:
        assert judged is not None, (
            "give --judged: the gate's thresholds are raised on such pictures"
        )
        raising = dc.loader(judged.select(range(recipe.raised)), 50)
        judged = judged.select(range(recipe.raised, len(judged)))
    if given.raised_on is not None:
        others = dc.open_dataset(given.raised_on, network.preprocessing).without_labels()
        raising = dc.loader(others.sample(recipe.raised, seed=1), 50)
    return raising, judged


def write_copy(folder: Path, copy: dc.GatedCopy, chosen: Strength) -> None:
    """Writes a fine-tuned copy's weights, and beside them its strength and gate, as
    `benchmarks.evidence.corruptions` reads them."""
    path = folder / "copy.safetensors"
    files.write_tensors(path, copy.state_dict())
    files.write_json(folder / f"{path.name}.strength.json", chosen.model_dump(mode="json"))
    print(f"wrote {path}")


def compared(
    network: dc.Classifier, corrected: nn.Module, pictures: Batches, kinds: list[str]
) -> Comparison:
    """Measures the network and the corrected one, and prints both."""
    found = compare(network, corrected, pictures, kinds, 0, "auto", "measuring")
    for kind, curve in found.after.curves.items():
        for grid in (found.before, found.after):
            shares = [grid.clean.top1 if grid.clean else 0.0, *grid.curves[kind].top1]
            print(kind, *(f"{share:.3f}" for share in shares), flush=True)
        print(f"mean {curve.mean_top1:.4f}")
    print(f"gain {100 * found.gain:.2f} +- {100 * found.interval:.2f}", flush=True)
    return found


def cost(network: dc.Classifier, adapted: dc.AdaptedModel) -> dict[str, Any]:
    """The cost as a card shows it."""
    image = torch.rand(1, 3, 224, 224)
    before, after = (multiply_adds(each, image) for each in (network, adapted))
    return {
        "multiply_adds": after - before,
        "base_multiply_adds": before,
        "base_parameters": sum(each.numel() for each in network.parameters()),
        "latency": dc.measure_latency(adapted, image).model_dump(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(RECIPES))
    parser.add_argument("--pictures", required=True)
    parser.add_argument("--judged", help="ImageNet's validation pictures")
    parser.add_argument("--judged-images", type=int, default=650)
    parser.add_argument("--raised-on", help="pictures that raise the gate's thresholds")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trial", action="store_true", help="judge without a gate, write nothing")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--copy", action="store_true", help="train a fine-tuned copy instead")
    instead.add_argument("--trained", help="an adapter, to choose its strength and gate anew")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--crop-epochs", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    torch.set_num_threads(1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
