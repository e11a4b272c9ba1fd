"""EfficientNet-Lite0 corrected without a label on Caltech-101, measured there and on ImageNet.

    DEEPCORRECT_SHARED=... python -m benchmarks.transfer.caltech101 train [--trial NAME] [--seed N]
    DEEPCORRECT_SHARED=... python -m benchmarks.transfer.caltech101 measure [--trial NAME]

`train` ranks the network's filters and trains one adapter for blur and noise on 28 of Caltech-101's
30 training images a class, whose labels are taken away first: the clean network's features and
answers are the target. The other two a class say how well a trial agrees with the clean network
(`agreement`), which is what trials were chosen by, and what gates of several shares make of clean
and slightly distorted images at several scales (`gates`): the smallest share was taken that finds
19 in 20 of the weakest levels at each.
`measure` gives the figures on images that neither saw, of adapters of two seeds. What is finished
is kept in runs/transfer-benchmark, so a stopped benchmark goes on; figures are written to
benchmarks/results/transfer/.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import deepcorrect as dc
from benchmarks.subjects import SHARED, efficientnet_lite0
from deepcorrect.correction._checkpoint import WEIGHTS_FILE, read_config
from deepcorrect.correction._fit_gate import shrink
from deepcorrect.data import UNLABELLED, ImageSet
from deepcorrect.distortions import parse_all
from deepcorrect.evaluation import system_record
from deepcorrect.runtime import files, seeds_for

WORK = Path("runs/transfer-benchmark")
RESULTS = Path(__file__).parent.parent / "results" / "transfer"
PAPER_GAINS = {  # table of the paper: AlexNet, corrected with ImageNet's images and labels
    "imagenet": {"gaussian_blur": 27.6, "awgn": 27.1},
    "caltech101": {"gaussian_blur": 33.9, "awgn": 46.1},
}
DISTORTIONS = ("gaussian_blur", "awgn")
SEEDS = (0, 1)
OBJECTIVES = ("features", "logits", "activations")
GATES = (0.05, 0.02, 0.01, 0.005, 0.002)
SCALES = (1.0, 0.75, 0.5)
FOUND = 0.95
HELD_OUT = (0, 15)  # of each class's 30 training images: agreement is measured on these
BETA = {
    "blocks.0.0.conv_pw": 1.0,
    "blocks.1.0.conv_pwl": 1.0,
    "blocks.1.1.conv_pwl": 1.0,
    "blocks.2.0.conv_pwl": 1.0,
    "blocks.2.1.conv_pwl": 1.0,
    "blocks.3.0.conv_pwl": 0.75,
    "blocks.3.1.conv_pwl": 0.75,
    "blocks.3.2.conv_pwl": 0.75,
    "blocks.4.0.conv_pwl": 0.75,
    "blocks.4.1.conv_pwl": 0.75,
    "blocks.4.2.conv_pwl": 0.75,
    "blocks.5.0.conv_pwl": 0.75,
    "blocks.5.3.conv_pwl": 0.75,
}
"""The narrow ends of the blocks, in all stages; the corrected share of each."""


@dataclass(frozen=True)
class Trial:
    """Settings of a correction: passes over random crops, which cost a quarter of whole images,
    then one over some whole images, which the units' batch norms will see. `start` names the trial
    whose adapter is trained on; `gate` the share of clean images that its gate lets through, fitted
    at random scales from `gate_scale` up."""

    start: str | None = None
    crop: int = 112
    crop_epochs: int = 5
    learning_rate: float = 3e-3
    whole_images: int = 768
    whole_learning_rate: float = 5e-4
    features: float = 2.0
    logits: float = 1.0
    activations: float = 0.0
    clean_share: float = 0.35
    batch_size: int = 32
    modulation: int | None = None
    gate: float | None = None
    gate_scale: float = 1.0


TRIALS = {
    "first": Trial(),
    "longer": Trial(start="first", crop=160, crop_epochs=6, whole_images=2828, clean_share=0.45),
    "modulated": Trial(crop_epochs=6, clean_share=0.5, modulation=16),
    "modulated_longer": Trial(
        start="modulated",
        crop=160,
        crop_epochs=4,
        whole_images=2828,
        clean_share=0.5,
        modulation=16,
    ),
    "maps": Trial(clean_share=0.5, activations=4.0),
    "maps_longer": Trial(
        start="maps",
        crop=160,
        crop_epochs=6,
        whole_images=2828,
        clean_share=0.5,
        activations=4.0,
    ),
    "gated": Trial(crop_epochs=6, clean_share=0.1),
    "gated_longer": Trial(
        start="gated",
        crop=160,
        crop_epochs=5,
        whole_images=2828,
        clean_share=0.1,
        gate=0.01,
        gate_scale=0.5,
    ),
}


class Pixels(Dataset[tuple[Tensor, int]]):
    """Decoded images in memory; mirrored and cut at random where asked.

    Args:
        pixels: N x 3 x H x W, 8 bits.
        crop: side of a random crop, in pixels; None gives the whole image.
        mirrored: half of the images, at random, left to right.
        labels: N; None for none.
    """

    def __init__(
        self,
        pixels: Tensor,
        crop: int | None = None,
        *,
        mirrored: bool = False,
        labels: list[int] | None = None,
    ) -> None:
        self.pixels, self.crop, self.mirrored = pixels, crop, mirrored
        self.labels = labels or [UNLABELLED] * len(pixels)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.pixels[index].float() / 255
        if self.crop:
            room = image.shape[-1] - self.crop + 1
            top, left = torch.randint(room, (2,)).tolist()
            image = image[:, top : top + self.crop, left : left + self.crop]
        if self.mirrored and torch.rand(()) < 0.5:
            image = image.flip(2)
        return image, self.labels[index]


def decoded(images: ImageSet) -> Tensor:
    """All images of a set, N x 3 x 224 x 224, 8 bits."""
    return torch.stack([(images[i][0] * 255).round().byte() for i in range(len(images))])  # pyright: ignore


def training_images(network: dc.Classifier) -> tuple[Tensor, list[int]]:
    """Caltech-101's training images and their labels."""
    path = WORK / "train.safetensors"
    images = dc.open_dataset(
        f"parquet:{SHARED}/data/caltech101/train.parquet", network.preprocessing
    )
    if not path.exists():
        files.write_tensors(path, {"pixels": decoded(images)})
    return files.read_tensors(path)["pixels"], list(images.labels)


def split(network: dc.Classifier) -> tuple[Tensor, Tensor]:
    """The training images to correct with, and those held out, as many of each class."""
    pixels, labels = training_images(network)
    held = torch.tensor([turn in HELD_OUT for turn in turns(labels)])
    return pixels[~held], pixels[held]


def ranking_of(network: dc.Classifier, pixels: Tensor) -> dc.Ranking:
    """All candidate sites' filters, by the clean network's own answers."""
    folder = WORK / "ranking"
    if not (folder / "ranking.json").exists():
        rows = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:32]
        some = DataLoader(Pixels(pixels[rows]), 32)
        dc.rank(
            network,
            some,
            ["gaussian_blur:3", "awgn:40"],
            method="gradient",
            sites=list(BETA),
            target="kl",
            precision="auto",
        ).save(folder)
    return dc.load_ranking(folder)


def folder_of(name: str, seed: int) -> Path:
    """Where a trial keeps what it made with a seed."""
    return WORK / name / f"seed-{seed}"


def trained(network: dc.Classifier, name: str, seed: int) -> Path:
    """The adapter of a trial, trained where it is not there yet."""
    trial, folder = TRIALS[name], folder_of(name, seed)
    if (folder / "adapter" / "adapter_config.json").exists():
        return folder / "adapter"
    pixels, _ = split(network)
    unit = {"kind": "bottleneck", "affine": True, "modulation": trial.modulation}
    adapted = dc.correct(network, ranking_of(network, pixels), BETA, unit, seed)
    print(dc.costs(network, network.preprocessing), dc.costs(adapted, network.preprocessing))
    seconds, seen = 0.0, 0
    if trial.start is not None:
        before = trained(network, trial.start, seed)
        adapted.load_state_dict(files.read_tensors(before / WEIGHTS_FILE))
        notes = read_config(before).notes
        seconds, seen = notes["training_seconds"], notes["images_seen"]
    order = torch.Generator().manual_seed(1 + seed)
    some = pixels[torch.randperm(len(pixels), generator=order)]
    for part, shown, crop, epochs, rate in (
        ("crops", pixels, trial.crop, trial.crop_epochs, trial.learning_rate),
        ("whole", some[: trial.whole_images], None, 1, trial.whole_learning_rate),
    ):
        batches: Any = DataLoader(
            Pixels(shown, crop, mirrored=True), trial.batch_size, shuffle=True, drop_last=True
        )
        history = dc.fit(
            adapted,
            batches,
            DISTORTIONS,
            checkpoint=folder / f"{part}.pt",
            task=f"{name}, {part}",
            epochs=epochs,
            batch_size=trial.batch_size,
            learning_rate=rate,
            clean_share=trial.clean_share,
            objective={name: getattr(trial, name) for name in OBJECTIVES},
            seed=seed,
        )
        seconds, seen = seconds + history.seconds, seen + history.images_seen
    if trial.gate is not None:
        fit_gate(adapted, pixels, trial, trial.gate, seed)
    notes = {"labels": False, "images_seen": seen, "training_seconds": round(seconds, 1)}
    return adapted.save_pretrained(folder / "adapter", notes)


def fit_gate(
    adapted: dc.AdaptedModel, pixels: Tensor, trial: Trial, share: float, seed: int
) -> None:
    """Puts on a gate of a trial's kind."""
    shown: Any = DataLoader(Pixels(pixels), 32, shuffle=True)
    dc.fit_gate(
        adapted,
        shown,
        DISTORTIONS,
        share,
        images=len(pixels),
        seed=seed,
        scale=trial.gate_scale,
    )


def figures(
    network: dc.Classifier,
    trial: str,
    file: str,
    measured: Callable[[str, torch.nn.Module], dict[str, Any]],
) -> dict[str, Any]:
    """What `measured` gives, or gave before, of the untouched network and of every seed's."""

    def of(name: str, folder: Path, model: Callable[[], torch.nn.Module]) -> dict[str, Any]:
        path = folder / file
        if not path.exists():
            files.write_json(path, measured(name, model()))
        return files.read_json(path)

    found = {"baseline": of("baseline", WORK / "baseline", lambda: network)}
    for seed in SEEDS:
        corrected = partial(dc.load_adapter, network, trained(network, trial, seed))
        found[f"seed {seed}"] = of(f"seed {seed}", folder_of(trial, seed), corrected)
    return found


def agreement(network: dc.Classifier, trial: str, count: int) -> dict[str, Any]:
    """Agreement with the clean network's answers on held-out training images, without labels."""
    _, pixels = split(network)
    batches = DataLoader(Pixels(pixels[:: max(1, len(pixels) // count)]), 32)

    def measured(name: str, model: torch.nn.Module) -> dict[str, Any]:
        grid = dc.evaluate(model, batches, DISTORTIONS, precision="auto", task=name)
        assert grid.target == "prediction"
        return {"images": grid.images, "distortions": grid.to_json()}

    return figures(network, trial, f"agreement-{count}.json", measured)


def gates(network: dc.Classifier, trial: Trial, seed: int) -> None:
    """What gates of several shares make of held-out training images: how many they correct, at each
    scale; and the smallest share that finds enough of those at the weakest levels."""
    pixels, held = split(network)
    seen: dict[str, dict[str, Tensor]] = {}
    for scale in SCALES:
        images = shrink(held.float() / 255, scale)
        seen[f"{scale:g}"] = {"clean": images}
        for kind in parse_all(DISTORTIONS, held.shape[-1]):
            level = kind.levels[0]
            seeds = seeds_for(kind.name, level, first=0, count=len(images))
            seen[f"{scale:g}"][f"{kind.name}:{level:g}"] = kind(images, level, seeds)
    adapted = dc.correct(network, {site: [0] for site in BETA})
    enough = []
    for share in GATES:
        fit_gate(adapted, pixels, trial, share, seed)
        found = {
            scale: {
                name: float(dc.looks_distorted(adapted, some).float().mean())
                for name, some in shown.items()
            }
            for scale, shown in seen.items()
        }
        for scale, shares in found.items():
            print(share, scale, {name: round(value, 3) for name, value in shares.items()})
        weakest = [shares[name] for shares in found.values() for name in shares if name != "clean"]
        if min(weakest) >= FOUND:
            enough.append(share)
    print("chosen:", min(enough))


def imagenet(network: dc.Classifier, trial: str, count: int) -> dict[str, Any]:
    """Top-1 of the network's own classes on the ImageNet sample."""
    images = dc.open_dataset(
        f"parquet:{SHARED}/data/imagenet_sample/test.parquet", network.preprocessing
    )
    images = images.select(range(0, len(images), max(1, len(images) // count)))

    def measured(name: str, model: torch.nn.Module) -> dict[str, Any]:
        grid = dc.evaluate(
            model, dc.loader(images, 32), DISTORTIONS, precision="auto", task=f"ImageNet, {name}"
        )
        return record_of(network, model, grid)

    return figures(network, trial, f"imagenet-{count}.json", measured)


def caltech(network: dc.Classifier, trial: str, count: int, trained_on: int) -> dict[str, Any]:
    """Accuracy of a linear SVM on features: `count` test images, of all classes alike."""
    test = dc.open_dataset(f"parquet:{SHARED}/data/caltech101/test.parquet", network.preprocessing)
    test = test.select(evenly(list(test.labels), count))
    pixels, labels = training_images(network)
    rows = evenly(labels, trained_on)
    train = DataLoader(Pixels(pixels[rows], labels=[labels[row] for row in rows]), 32)

    def measured(name: str, model: torch.nn.Module) -> dict[str, Any]:
        done = dc.feature_transfer(
            model,
            train,
            dc.loader(test, 32),
            DISTORTIONS,
            precision="auto",
            task=f"Caltech-101, {name}",
        )
        svm = {"c": done.svm.penalty, "validation": done.svm.validation, "images": done.svm.images}
        return record_of(network, model, done.grid) | {"svm": svm}

    return figures(network, trial, f"caltech-{count}-{trained_on}.json", measured)


def record_of(network: dc.Classifier, model: torch.nn.Module, grid: dc.Grid) -> dict[str, Any]:
    """One system's figures; the SVM's scores are no probabilities, so without calibration."""
    notes = model.config.notes if isinstance(model, dc.AdaptedModel) else {}
    record = system_record(
        grid,
        dc.costs(model, network.preprocessing),
        trained=bool(notes),
        images_seen=notes.get("images_seen", 0),
        seconds=notes.get("training_seconds", 0),
    )
    for curve in record["distortions"].values():
        for key in [key for key in curve if "ece" in key]:
            del curve[key]
    return record


def turns(labels: list[int]) -> list[int]:
    """For each image, how many of its class come before it."""
    seen: dict[int, int] = {}
    found = []
    for label in labels:
        found.append(seen.get(label, 0))
        seen[label] = found[-1] + 1
    return found


def evenly(labels: list[int], count: int) -> list[int]:
    """Rows of `count` images at most: the first of each class, then the second of each, ..."""
    order = sorted(range(len(labels)), key=turns(labels).__getitem__)
    return sorted(order[:count])


def gains(found: dict[str, Any]) -> dict[str, Any]:
    """Corrected minus baseline, in points, by distortion: the mean and clean images, of each seed,
    and the mean of the seeds."""
    baseline = found["baseline"]["distortions"]
    each = {
        name: {
            kind: {
                key: 100 * (one["distortions"][kind][key] - baseline[kind][key])
                for key in ("mean_top1", "clean_top1")
            }
            for kind in DISTORTIONS
        }
        for name, one in found.items()
        if name != "baseline"
    }
    mean = {
        kind: {
            key: sum(one[kind][key] for one in each.values()) / len(each)
            for key in ("mean_top1", "clean_top1")
        }
        for kind in DISTORTIONS
    }
    return {**each, "mean": mean}


def measure(network: dc.Classifier, given: argparse.Namespace) -> None:
    """Both figures, written and printed."""
    trial = given.trial
    for name, measured in (
        ("imagenet", lambda: imagenet(network, trial, given.imagenet_images)),
        ("caltech101", lambda: caltech(network, trial, given.caltech_images, given.svm_images)),
    ):
        measures = measured()
        found = {
            "trial": {"name": trial, **asdict(TRIALS[trial])},
            "labels_used_in_correction": False,
            "gains_in_points": gains(measures),
            "paper_gains_in_points": PAPER_GAINS[name],
            "systems": measures,
        }
        files.write_json(RESULTS / f"{name}.json", found)
        print(name, found["gains_in_points"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "agreement", "gates", "measure"])
    parser.add_argument("--trial", default="gated_longer", choices=TRIALS)
    parser.add_argument("--seed", type=int, default=0, help="of train and gates")
    parser.add_argument("--caltech-images", type=int, default=1692, help="test images, all 1,692")
    parser.add_argument("--svm-images", type=int, default=3030, help="training images, all 3,030")
    parser.add_argument("--imagenet-images", type=int, default=500)
    parser.add_argument("--agreement-images", type=int, default=101)
    given = parser.parse_args()
    network = efficientnet_lite0()
    if given.what == "gates":
        gates(network, TRIALS[given.trial], given.seed)
        return
    if given.what == "train":
        trained(network, given.trial, given.seed)
    elif given.what == "agreement":
        found = agreement(network, given.trial, given.agreement_images)
        print(
            {
                name: {k: c["mean_top1"] for k, c in one["distortions"].items()}
                for name, one in found.items()
            },
            gains(found),
        )
    elif given.what == "measure":
        measure(network, given)


if __name__ == "__main__":
    main()
