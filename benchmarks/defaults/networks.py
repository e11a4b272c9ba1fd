"""Three small networks of other families than ResNet-20 and the paper's, trained on CIFAR-100.

    python -m benchmarks.defaults.networks [NAME ...]

Their blocks are torchvision's and timm's: a ResNet of bottleneck blocks, a MobileNetV3, a ConvNeXt.
Each is trained on the training images that are not for validation, for ten to thirty minutes on one
core, which leaves accuracies of 48, 51 and 35 % on the validation images. The weights are written
to runs/defaults, in half precision, which is not part of the repository. A training that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.subjects import SHARED, cifar_network, cifar_rows
from deepcorrect.data import Preprocessing, loader, open_dataset, read_batches
from deepcorrect.networks import Classifier
from deepcorrect.runtime import optional_import, progress

KEPT = Path("runs/defaults")
BATCH = 128


def bottleneck_resnet() -> nn.Module:
    """Six of torchvision's bottleneck blocks behind a 3 x 3 stem that halves the size."""
    blocks = optional_import("torchvision.models.resnet", "torchvision")
    width, layers = 16, [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    for stage, planes in enumerate((16, 32, 64)):
        for index in range(2):
            stride = 2 if stage and not index else 1
            shortcut = None
            if not index:
                shortcut = nn.Sequential(
                    nn.Conv2d(width, planes * 4, 1, stride, bias=False), nn.BatchNorm2d(planes * 4)
                )
            layers.append(blocks.Bottleneck(width, planes, stride, shortcut))
            width = planes * 4
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 100))


def mobilenet() -> nn.Module:
    """MobileNetV3 of torchvision with a stem and strides for 32 pixels."""
    family = optional_import("torchvision.models.mobilenetv3", "torchvision")
    block = partial(family.InvertedResidualConfig, width_mult=1.0)
    settings = [
        block(16, 3, 48, 24, False, "RE", 2, 1),
        block(24, 3, 72, 24, False, "RE", 1, 1),
        block(24, 5, 96, 40, True, "HS", 2, 1),
        block(40, 5, 160, 40, True, "HS", 1, 1),
        block(40, 5, 160, 64, True, "HS", 2, 1),
        block(64, 5, 256, 64, True, "HS", 1, 1),
    ]
    network = family.MobileNetV3(settings, last_channel=256, num_classes=100, dropout=0.1)
    network.features[0][0].stride = (1, 1)
    return network


def convnext() -> nn.Module:
    """ConvNeXt of timm with small widths and patches of 2 pixels."""
    family = optional_import("timm.models.convnext", "timm")
    return family.ConvNeXt(
        num_classes=100,
        depths=(2, 2, 2, 1),
        dims=(32, 64, 128, 192),
        patch_size=2,
        drop_path_rate=0.05,
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "bottleneck_resnet": bottleneck_resnet,
    "mobilenet": mobilenet,
    "convnext": convnext,
}
RATES = {"bottleneck_resnet": 4e-3, "mobilenet": 4e-3, "convnext": 3e-3}
"""The peak of AdamW's learning rate."""
SEEN = {"bottleneck_resnet": 450_000, "mobilenet": 350_000, "convnext": 600_000}
"""How many images training sees, repeats counted."""


def network(name: str) -> Classifier:
    """A trained network: one of these, or `resnet20` or `allcnn`."""
    if name not in NETWORKS:
        return cifar_network(name)
    if not (KEPT / f"{name}.safetensors").exists():
        raise SystemExit(f"train it first: python -m benchmarks.defaults.networks {name}")
    built = NETWORKS[name]()
    state = load_file(KEPT / f"{name}.safetensors")
    built.load_state_dict(
        {key: value.float() if value.dtype == torch.half else value for key, value in state.items()}
    )
    return Classifier(built.eval(), preprocessing(), name)


def preprocessing() -> Preprocessing:
    """That of the shared CIFAR-100 networks."""
    return cifar_network("resnet20").preprocessing


def _images() -> tuple[Tensor, Tensor]:
    every = open_dataset(f"parquet:{SHARED}/data/cifar100/train-*.parquet", preprocessing())
    rows = json.loads((SHARED / "models" / "cifar100_validation_rows.json").read_text())
    kept = sorted(set(range(len(every))) - set(rows["rows"] if isinstance(rows, dict) else rows))
    pairs = list(read_batches(loader(every.select(kept), 500)))
    images = torch.cat([images for images, _ in pairs]).mul(255).round().byte()
    return images, torch.cat([labels for _, labels in pairs])


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted by up to four pixels, half of them mirrored; as floats."""
    padded = F.pad(images.float().div(255), (4, 4, 4, 4), mode="reflect")
    shifts = torch.randint(0, 9, (len(images), 2), generator=generator).tolist()
    crops = [p[:, y : y + 32, x : x + 32] for p, (y, x) in zip(padded, shifts, strict=True)]
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    moved = torch.stack(crops)
    return torch.where(mirrored, moved.flip(3), moved)


def train(name: str) -> None:
    """Trains one network, and keeps its weights and accuracy."""
    torch.manual_seed(0)
    built: Any = NETWORKS[name]()
    built = built.to(memory_format=torch.channels_last)
    scaled = preprocessing()
    whole = Classifier(built, scaled, name)
    images, labels = _images()
    optimizer = torch.optim.AdamW(built.parameters(), lr=RATES[name], weight_decay=0.05)
    steps = SEEN[name] // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATES[name], steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(0)
    order = torch.cat([torch.randperm(len(images), generator=generator) for _ in range(99)])
    KEPT.mkdir(parents=True, exist_ok=True)
    part, first = Path(f"{KEPT / name}.part"), 0
    if part.exists():
        kept: dict[str, Any] = torch.load(part, weights_only=True)
        first = kept["step"]
        built.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict(kept["schedule"])
    with progress(name, (steps - first) * BATCH) as advance:
        for step in range(first, steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            shown = _moved(images[chosen], torch.Generator().manual_seed(step))
            loss = F.cross_entropy(whole(shown), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            advance(BATCH)
            if step % 200 == 199:
                print(name, step + 1, "of", steps, f"loss {loss.item():.3f}", flush=True)
                state = {"step": step + 1, "model": built.state_dict()}
                state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
                torch.save(state, f"{part}.new")
                Path(f"{part}.new").replace(part)
    state = built.state_dict()
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file({k: v.contiguous() for k, v in half.items()}, KEPT / f"{name}.safetensors")
    part.unlink(missing_ok=True)
    print(name, "validation accuracy", f"{accuracy(network(name)):.4f}", flush=True)


def accuracy(trained: Classifier, count: int = 5000) -> float:
    """Top-1 accuracy on CIFAR-100's validation images."""
    right = total = 0
    with torch.no_grad():
        for images, labels in read_batches(loader(cifar_rows(trained, 0, count), 250)):
            right += int((trained(images).argmax(1) == labels).sum())
            total += len(labels)
    return right / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    given = parser.parse_args()
    for name in given.names:
        train(name)


if __name__ == "__main__":
    main()
