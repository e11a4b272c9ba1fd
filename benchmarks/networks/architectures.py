"""Architectures through the whole chain: evaluate, rank, correct, save, load, export.

    python -m benchmarks.networks.architectures [--only NAME ...] [--again]

Weights are random and images are noise: what is tried is whether each step works and agrees with
itself, not how accurate anything is. One JSON file an architecture in benchmarks/results/networks/;
those that are there are not run again, but for those with `--again`. The last act writes the table
in docs/networks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import deepcorrect as dc
from benchmarks.pages import DOCS, fill
from deepcorrect import networks
from deepcorrect.models import load_model
from deepcorrect.networks import Classifier
from deepcorrect.runtime import files

RESULTS = Path(__file__).parent.parent / "results" / "networks" / "architectures"
CLASSES, IMAGES = 10, 4
STEPS = ("evaluate", "rank", "path", "correct", "save", "load", "torch", "onnx")
CLOSE = 1e-4  # of the largest logit


@dataclass(frozen=True)
class Architecture:
    """A MODEL spec, the family it stands for, and the side of the images it is tried with."""

    spec: str
    family: str
    size: int = 64

    @property
    def file(self) -> Path:
        """Where its results are."""
        return RESULTS / f"{self.spec.replace(':', '-')}.json"


ARCHITECTURES = (
    Architecture("torchvision:alexnet", "AlexNet"),
    Architecture("torchvision:resnet18", "ResNet"),
    Architecture("timm:vit_tiny_patch16_224", "ViT", 96),
    Architecture("timm:tf_efficientnet_lite0", "EfficientNet-Lite"),
    Architecture("torchvision:vgg11_bn", "VGG", 32),
    Architecture("timm:resnet50", "ResNet", 32),
    Architecture("torchvision:resnext50_32x4d", "ResNeXt: grouped", 32),
    Architecture("torchvision:wide_resnet50_2", "Wide ResNet", 32),
    Architecture("timm:seresnet50", "SE-ResNet: gates", 32),
    Architecture("torchvision:regnet_x_400mf", "RegNet: grouped", 32),
    Architecture("timm:regnety_002", "RegNet with gates"),
    Architecture("torchvision:densenet121", "DenseNet: concatenated", 32),
    Architecture("torchvision:googlenet", "GoogLeNet: branches", 32),
    Architecture("torchvision:inception_v3", "Inception: branches", 80),
    Architecture("torchvision:squeezenet1_1", "SqueezeNet"),
    Architecture("torchvision:mobilenet_v2", "MobileNetV2: depthwise"),
    Architecture("timm:mobilenetv3_small_050", "MobileNetV3: depthwise, gates"),
    Architecture("torchvision:mnasnet0_5", "MnasNet"),
    Architecture("torchvision:shufflenet_v2_x0_5", "ShuffleNet: channels split, shuffled"),
    Architecture("timm:efficientnet_b0", "EfficientNet", 32),
    Architecture("timm:convnext_atto", "ConvNeXt"),
    Architecture("torchvision:convnext_tiny", "ConvNeXt", 32),
    Architecture("timm:convmixer_768_32", "ConvMixer", 28),
    Architecture("timm:poolformer_s12", "PoolFormer", 32),
    Architecture("timm:mixer_s32_224", "MLP-Mixer", 96),
    Architecture("timm:mobilevit_xs", "MobileViT: convolutions and transformers"),
    Architecture("timm:deit_tiny_distilled_patch16_224", "DeiT: distilled", 96),
    Architecture("torchvision:vit_b_16", "ViT"),
    Architecture("torchvision:swin_t", "Swin"),
    Architecture("timm:swin_tiny_patch4_window7_224", "Swin", 112),
    Architecture("timm:res2net50_26w_4s", "Res2Net: split and summed", 32),
    Architecture("timm:repvgg_a0", "RepVGG: parallel branches", 32),
    Architecture("timm:ghostnet_100", "GhostNet", 32),
    Architecture("timm:dla34", "DLA: aggregated", 32),
    Architecture("timm:cspresnet50", "CSPNet", 32),
    Architecture("timm:edgenext_xx_small", "EdgeNeXt"),
    Architecture("timm:coatnet_pico_rw_224", "CoAtNet", 64),
    Architecture("timm:davit_tiny", "DaViT", 64),
    Architecture("timm:efficientformer_l1", "EfficientFormer", 224),
)


def built(architecture: Architecture) -> Classifier:
    """The network with its random weights, the same each time; heads that start at zero too, as
    their answers would depend on nothing."""
    model = load_model(architecture.spec, "random", classes=CLASSES, input_size=architecture.size)
    drawing = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and not bool(module.weight.any()):
            torch.nn.init.normal_(module.weight, std=0.02, generator=drawing)
    return model


class Chain:
    """One architecture's way through the steps; each fills its part of `record`."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.model = built(architecture)
        generator = torch.Generator().manual_seed(0)
        shape = (IMAGES, 3, architecture.size, architecture.size)
        self.images = torch.rand(shape, generator=generator)
        labels = torch.arange(IMAGES) % CLASSES
        self.batches = list(zip(self.images.split(2), labels.split(2), strict=True))
        self.folder = Path(tempfile.mkdtemp())
        self.ranking: Any = None
        self.adapted: Any = None

    def facts(self) -> dict[str, Any]:
        """What the network is, and its sites."""
        candidates = networks.find(self.model)
        with notes() as said:
            chosen = networks.choose(self.model, self.images[:2])
        kinds = {name: type(module).__name__ for name, module in chosen.items()}
        return {
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "candidates": len(candidates),
            "sites": len(chosen),
            "linear_sites": sum(isinstance(m, torch.nn.Linear) for m in chosen.values()),
            "modules": sorted(set(kinds.values())),
            "left_out": said.getvalue().strip().removeprefix("note: not taken as sites: "),
        }

    def evaluate(self) -> dict[str, Any]:
        """Accuracies of noise by random weights: there, and between 0 and 1."""
        grid = dc.evaluate(self.model, self.batches, ["gaussian_blur:1", "awgn:20"])
        assert grid.images == IMAGES
        assert 0 <= grid.mean_top1 <= 1
        return {}

    def rank(self) -> dict[str, Any]:
        """All sites by the default method; some priority is not zero."""
        with notes():
            self.ranking = dc.rank(self.model, self.batches, ["gaussian_blur:1"])
        assert any(bool(values.any()) for values in self.ranking.by_level.values())
        assert all(bool(values.isfinite().all()) for values in self.ranking.by_level.values())
        return {}

    def path(self) -> dict[str, Any]:
        """A method that re-runs the network from sites, at the two narrowest, and what it runs on.

        Before the network's graph is used, its answers and a swap at each site are compared with
        the network's own.
        """
        widths = {name: values.shape[1] for name, values in self.ranking.by_level.items()}
        narrow = sorted(widths, key=lambda name: widths[name])[:2]
        with notes() as said:
            dc.rank(self.model, self.batches[:1], ["awgn:20"], "path", narrow)
        reason = re.search(r"graph cannot be used \((.*)\)", said.getvalue().replace("\n", " "))
        return {"engine": "modules" if reason else "graph", "why": reason and reason.group(1)}

    def correct(self) -> dict[str, Any]:
        """Units at every site, two steps of training; off, they change nothing."""
        with torch.no_grad():
            before = self.model(self.images)
        self.adapted = dc.correct(self.model, self.ranking, beta=0.25, unit="bottleneck")
        with torch.no_grad():
            untrained = float((self.adapted(self.images) - before).abs().max())
        with notes():
            dc.fit(self.adapted, self.batches, ["gaussian_blur:1"], epochs=1)
        with torch.no_grad():
            trained = self.adapted(self.images)
            with self.adapted.disable_adapter():
                off = self.adapted(self.images)
        assert bool(trained.isfinite().all())
        assert torch.equal(off, before), "switched off, the network is not what it was"
        assert untrained <= CLOSE * max(1.0, float(before.abs().max())), "untrained units act"
        changed = float((trained - before).abs().max())
        assert changed > 0, "training changed no answer"
        own = sum(p.numel() for p in self.model.parameters())
        added = sum(p.numel() for p in self.adapted.units.parameters())
        return {"added": added / own}

    def save(self) -> dict[str, Any]:
        """Configuration and tensors."""
        self.adapted.save_pretrained(self.folder / "adapter")
        return {}

    def load(self) -> dict[str, Any]:
        """Onto the network, built again: the same answers, bit for bit."""
        with torch.no_grad():
            expected = self.adapted(self.images)
            again = dc.load_adapter(built(self.architecture), self.folder / "adapter")
            assert torch.equal(again(self.images), expected), "other answers"
        return {}

    def torch(self) -> dict[str, Any]:
        """A torch.export program with the corrected network's answers."""
        return self._exported("network.pt2")

    def onnx(self) -> dict[str, Any]:
        """An ONNX file with the corrected network's answers, in ONNX Runtime."""
        return self._exported("network.onnx")

    def _exported(self, name: str) -> dict[str, Any]:
        with notes():
            written = dc.export(self.adapted, self.folder / name, images=self.images[:2])
        return {"difference": written.largest_difference}


@contextlib.contextmanager
def notes() -> Iterator[io.StringIO]:
    """What the product says on standard error in the block."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        yield said


def run(architecture: Architecture) -> dict[str, Any]:
    """All steps; those behind one that failed are not tried, but for the two exports."""
    record: dict[str, Any] = {
        "spec": architecture.spec,
        "family": architecture.family,
        "size": architecture.size,
        "steps": {},
    }
    chain = Chain(architecture)
    record |= chain.facts()
    for name in STEPS:
        step: Callable[[], dict[str, Any]] = getattr(chain, name)
        started = time.monotonic()
        try:
            result = {"ok": True, **step()}
        except Exception as error:  # what fails is what is looked for
            first = (str(error).strip().splitlines() or [""])[0]
            result = {"ok": False, "error": f"{type(error).__name__}: {first}"}
        record["steps"][name] = result | {"seconds": round(time.monotonic() - started, 2)}
        print(f"{architecture.spec:40} {name:9} {record['steps'][name]}", flush=True)
        if not result["ok"] and name not in ("path", "torch", "onnx"):
            break
    return record


def table(records: list[dict[str, Any]]) -> str:
    """The records as Markdown, what failed and why below."""
    lines = [
        "| network | family | input | parameters, M | sites | units add | re-run on | evaluate "
        "| rank | correct | save | load | export: torch | ONNX |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    problems = []
    for record in records:
        steps = record["steps"]

        def said(name: str, steps: dict[str, Any] = steps) -> str:
            return "-" if name not in steps else "yes" if steps[name]["ok"] else "**no**"

        engine = steps.get("path", {}).get("engine", "-")
        linear, added = record["linear_sites"], steps.get("correct", {}).get("added")
        where = f"{record['sites']}" + (f" ({linear} MLPs)" if linear else "")
        cells = [f"`{record['spec']}`", record["family"], f"{record['size']}"]
        cells += [
            f"{record['parameters'] / 1e6:.1f}",
            where,
            f"{added:.0%}" if added else "-",
            engine,
        ]
        cells += [said(name) for name in STEPS if name != "path"]
        lines.append("| " + " | ".join(cells) + " |")
        for name, step in steps.items():
            if not step["ok"]:
                problems.append(f"- `{record['spec']}`, {name}: {step['error']}")
            elif step.get("why"):
                problems.append(f"- `{record['spec']}`, re-run module by module: {step['why']}")
    whole = sum(all(r["steps"].get(n, {}).get("ok") for n in STEPS) for r in records)
    lines += ["", f"{whole} of {len(records)} through every step."]
    if problems:
        lines += ["", "What fails or falls back:", "", *problems]
    left_out = [f"- `{r['spec']}`: {r['left_out']}" for r in records if r["left_out"]]
    if left_out:
        lines += ["", "What is left out of the sites:", "", *left_out]
    return "\n".join(lines)


def write_table() -> None:
    """Puts the table between its marks in docs/networks.md."""
    records = [json.loads(a.file.read_text()) for a in ARCHITECTURES if a.file.is_file()]
    fill(DOCS / "networks.md", {"architectures": table(records)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="specs, or parts of them")
    parser.add_argument("--again", action="store_true", help="also those that have results")
    parser.add_argument("--table", action="store_true", help="write the table alone")
    arguments = parser.parse_args()
    for architecture in () if arguments.table else ARCHITECTURES:
        if arguments.only and not any(part in architecture.spec for part in arguments.only):
            continue
        if architecture.file.is_file() and not arguments.again:
            continue
        started = time.monotonic()
        record = run(architecture)
        record["seconds"] = round(time.monotonic() - started, 1)
        files.write_json(architecture.file, record)
        gc.collect()
    write_table()


if __name__ == "__main__":
    main()
