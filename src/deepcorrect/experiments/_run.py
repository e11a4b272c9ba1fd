"""The run: measure, rank, correct, measure, report; each step reads and writes the run's folder."""

from __future__ import annotations

import base64
import io
import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from deepcorrect import correction, networks
from deepcorrect.correction import GateConfig, fit_gate
from deepcorrect.data import UNLABELLED, ImageSet, loader
from deepcorrect.distortions import Distortion, parse_all
from deepcorrect.evaluation import TestTimeSystem, evaluate, system_record
from deepcorrect.experiments._data import open_sets
from deepcorrect.experiments._recipe import Recipe
from deepcorrect.experiments._systems import CorrectionSystem, TrainedSystem
from deepcorrect.experiments.report import write_report
from deepcorrect.models import load_model
from deepcorrect.networks import Classifier, costs, throughput
from deepcorrect.ranking import Ranking, ideal_correction, load_ranking, rank
from deepcorrect.runtime import (
    InputError,
    autocast,
    console,
    device_for,
    environment,
    files,
    generator_for,
    inference,
    to_device,
)
from deepcorrect.training import fit

EXAMPLES = 3
EXAMPLE_PIXELS = 128


def run(recipe: Recipe, folder: Path, *, resume: bool = False) -> Path:
    """Runs a recipe; the results, the report and everything needed to resume go to `folder`.

    Steps whose files are whole are not repeated, so a run that was stopped at any moment goes on
    with `resume` and gives the same figures.

    Returns:
        The path of `results.json`.

    Raises:
        InputError: the folder holds another run, or anything in the recipe cannot be used.
    """
    this = _Run(recipe, folder)
    _open_folder(recipe, folder, resume)
    this.log("start", environment=this.environment())
    records = {"baseline": this.measure("baseline", this.model, 0, 0.0, trained=False)}
    if this.needs_ranking:
        ranking = this.rank()
        if recipe.ideal.images:
            this.ideal(ranking)
    histories: dict[str, Any] = {}
    systems: dict[str, nn.Module] = {"baseline": this.model}
    for name, system in recipe.systems.items():
        if not isinstance(system, TrainedSystem):
            systems[name] = system.build(this.model)
            records[name] = this.measure(name, systems[name], 0, 0.0, trained=False)
            continue
        systems[name], histories[name] = this.train(name, system)
        history = histories[name]
        seconds = sum(epoch["seconds"] for epoch in history["epochs"])
        records[name] = this.measure(
            name, systems[name], history["images_seen"], seconds, trained=True
        )
        if isinstance(system, CorrectionSystem):
            this.save_adapter(name, systems[name], records[name], records["baseline"])
    files.write_json(folder / "history.json", histories)
    this.examples(systems)
    this.finish(records)
    this.log("report", path=str(write_report(folder)))
    return folder / "results.json"


def _open_folder(recipe: Recipe, folder: Path, resume: bool) -> None:
    files.check_folder(folder)
    path = folder / "recipe.yaml"
    if not path.exists():
        if folder.is_dir() and any(p for p in folder.iterdir() if not p.name.startswith(".")):
            raise InputError(f"{folder} is not empty and not a run: choose another --out")
        files.write_text(path, recipe.to_yaml())
        return
    if not resume:
        raise InputError(f"{folder} already holds a run: give --resume to go on, or another --out")
    for leftover in folder.rglob(".*.tmp"):  # of a write that was killed
        leftover.unlink(missing_ok=True)
    before = _flat(yaml.safe_load(path.read_text(encoding="utf-8")))
    now = _flat(yaml.safe_load(recipe.to_yaml()))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        shown = ", ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in changed[:4])
        raise InputError(
            f"{folder} holds a run of another recipe ({shown}): resume it with the same recipe "
            f"(deepcorrect run {path} --out {folder} --resume), or choose another --out"
        )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {key: value}
    result: dict[str, Any] = {}
    for name, inner in value.items():
        result.update(_flat(inner, f"{key}.{name}" if key else str(name)))
    return result


class _Run:
    """A run's model, data and folder, and one method a step."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.device = device_for(recipe.device)
        self.model: Classifier = load_model(**recipe.model.model_dump()).to(self.device)
        preprocessing = self.model.preprocessing
        self.distortions: tuple[Distortion, ...] = parse_all(
            recipe.distortion_list, preprocessing.input_size
        )
        self.test_distortions: tuple[Distortion, ...] = parse_all(
            recipe.test_list, preprocessing.input_size
        )
        self.sets = open_sets(recipe, self.model)
        corrections = [s for s in recipe.systems.values() if isinstance(s, CorrectionSystem)]
        self.needs_ranking = bool(corrections)
        found = networks.find(self.model, recipe.ranking.sites)
        for system in corrections:
            corrected = found
            if isinstance(system.beta, dict):
                corrected = networks.find(self.model, system.beta)
                if not corrected.keys() <= found.keys():
                    raise InputError("key 'beta' names a site that ranking.sites leaves out")
            for name, module in corrected.items():
                networks.filter_count(name, module)

    def measure(
        self, name: str, model: nn.Module, images_seen: int, seconds: float, *, trained: bool
    ) -> dict[str, Any]:
        """A system's accuracies and costs on the test images."""
        path = self.folder / "checkpoints" / f"{name}.measured.json"
        if path.exists():
            return files.read_json(path)
        started = time.monotonic()
        grid = evaluate(
            model,
            self._loader(self.sets.test),
            self.test_distortions,
            self.recipe.seed,
            self.recipe.precision,
            f"measuring {name}",
        )
        cost = costs(model, self.model.preprocessing)
        record = system_record(
            grid, cost, trained=trained, images_seen=images_seen, seconds=seconds
        )
        record |= self._speed(model)
        record["measuring_seconds"] = round(time.monotonic() - started, 2)
        files.write_json(path, record)
        means = {kind: round(curve.mean_top1, 4) for kind, curve in grid.curves.items()}
        self.log("measured", system=name, clean_top1=round(grid.clean_top1, 4), mean_top1=means)
        return record

    def _speed(self, model: nn.Module) -> dict[str, float]:
        """Images a second, and how many of the baseline's that is, both measured in turns."""
        batch, _ = next(iter(self._loader(self.sets.test)))
        kind = self.test_distortions[0]
        level = (kind.levels or (0.0,))[len(kind.levels or ()) // 2]
        shown = kind(batch, level, generator_for(self.recipe.seed, "speed"))
        if isinstance(model, TestTimeSystem):
            model.start_level(kind, level)
        own, baseline = throughput([model, self.model], shown, self.recipe.precision)
        return {
            "images_per_second": round(own, 1),
            "relative_speed": round(own / baseline, 3),
        }

    def rank(self, method: str | None = None) -> Ranking:
        """The ranking of all filters of the sites, by the recipe's method or another."""
        section = self.recipe.ranking
        method = method or section.method
        own = method == section.method
        folder = self.folder if own else self.folder / "rankings" / method
        if (folder / "ranking.json").exists():  # the last of its files
            return load_ranking(folder)
        ranking = rank(
            self.model,
            self._loader(self.sets.ranking),
            self.distortions,
            method,
            section.sites,
            self.recipe.seed,
            section.precision,
            section.target,
        )
        ranking.save(folder)
        self.log("ranked", method=ranking.method, images=ranking.images, seconds=ranking.seconds)
        return ranking

    def ideal(self, ranking: Ranking) -> None:
        """The ideal-correction curves of the ranking."""
        path = self.folder / "ideal.json"
        if path.exists():
            return
        started = time.monotonic()
        curves = ideal_correction(
            self.model,
            self._loader(self.sets.ideal),
            ranking,
            self.recipe.ideal.betas,
            seed=self.recipe.seed + 1,
            precision=self.recipe.ranking.precision,
        )
        files.write_json(path, {**curves.to_json(), "seconds": time.monotonic() - started})
        self.log("ideal", images=curves.images, seconds=time.monotonic() - started)

    def train(self, name: str, system: TrainedSystem) -> tuple[nn.Module, dict[str, Any]]:
        """A system trained from the baseline, and its history."""
        model = system.build(self.model, self.rank, self.recipe.seed)
        if isinstance(system, CorrectionSystem) and isinstance(model, correction.AdaptedModel):
            self.gate(name, system, model)
        batch = system.training.batch_size
        validating = self._loader(self.sets.selection) if len(self.sets.selection) else None
        history = fit(
            model,
            loader(self.sets.train, batch, shuffle=True, workers=self.recipe.data.workers),
            self.distortions,
            system.training,
            validating,
            self.recipe.seed,
            self.folder / "checkpoints" / f"{name}.pt",
            f"training {name}",
        )
        self.log("trained", system=name, best=history.best, seconds=history.seconds)
        return system.finished(model), asdict(history)

    def gate(self, name: str, system: CorrectionSystem, model: correction.AdaptedModel) -> None:
        """Puts a gate on a correction that is to have one."""
        path = self.folder / "checkpoints" / f"{name}.gate.json"
        if system.gate is None:
            return
        if path.exists():
            model.set_gate(GateConfig.model_validate(files.read_json(path)))
            return
        size, workers = self.recipe.data.batch_size, self.recipe.data.workers
        shown = loader(self.sets.train, size, shuffle=True, workers=workers)
        gate = fit_gate(
            model,
            shown,
            self.distortions,
            system.gate,
            seed=self.recipe.seed,
            scale=system.gate_scale,
        )
        files.write_json(path, gate.model_dump(mode="json"))

    def save_adapter(
        self, name: str, model: nn.Module, record: dict[str, Any], baseline: dict[str, Any]
    ) -> None:
        """The adapter's files, with what it was measured to do beside the baseline."""
        if not isinstance(model, correction.AdaptedModel):
            raise InputError(f"system {name!r} is not a corrected network")
        folder = self.folder / ("adapter" if name == "deepcorrect" else f"adapter-{name}")
        top1 = {kind: values["mean_top1"] for kind, values in record["distortions"].items()}
        notes = {
            "model": self.recipe.model.spec,
            "data": self.recipe.data.train,
            "distortions": [asdict(distortion) for distortion in self.distortions],
            "images_seen": record["images_seen"],
            "training_seconds": record["training_seconds"],
            "mean_top1": top1,
            "measured": {
                "data": self.recipe.data.test,
                "images": record["test_images"],
                "baseline": baseline["distortions"],
                "corrected": record["distortions"],
            },
            "cost": {
                "multiply_adds": record["multiply_adds"] - baseline["multiply_adds"],
                "base_multiply_adds": baseline["multiply_adds"],
                "base_parameters": baseline["parameters"],
            },
        }
        model.save_pretrained(folder, notes)

    def examples(self, systems: dict[str, nn.Module]) -> None:
        """A few test images at every level, with every system's answers, for the report."""
        path = self.folder / "examples.json"
        if path.exists():
            return
        chosen = self.sets.test.sample(EXAMPLES, self.recipe.seed + 2)
        batches = list(self._loader(chosen))
        images = torch.cat([batch for batch, _ in batches])
        names = [self._class_name(label) for _, labels in batches for label in labels.tolist()]
        shown: dict[str, Any] = {}
        for distortion in self.test_distortions:
            levels = [0.0, *(distortion.levels or ())]
            rows: list[dict[str, Any]] = [{"label": name, "cells": []} for name in names]
            for level in levels:
                generator = generator_for(self.recipe.seed, "examples", distortion.name, level)
                batch = distortion(images, level, generator) if level else images
                answers = {name: self._answers(model, batch) for name, model in systems.items()}
                for number, row in enumerate(rows):
                    said = {name: given[number] for name, given in answers.items()}
                    row["cells"].append({"png": _png(batch[number]), "answers": said})
            shown[distortion.name] = {"levels": levels, "rows": rows}
        files.write_json(path, {"systems": list(systems), "distortions": shown})

    def finish(self, records: dict[str, Any]) -> None:
        """`results.json`, the run's figures in one file."""
        seconds = sum(r["training_seconds"] + r["measuring_seconds"] for r in records.values())
        for name in ("ranking.json", "ideal.json"):
            if (self.folder / name).exists():
                seconds += files.read_json(self.folder / name)["seconds"]
        results = {
            "schema": 1,
            "name": self.recipe.name,
            "model": self.model.name,
            "data": self.recipe.data.test,
            "seed": self.recipe.seed,
            "seconds": round(seconds, 1),
            "systems": records,
        }
        files.write_json(self.folder / "results.json", results)
        sets = self.sets
        for images in (sets.train, sets.ranking, sets.selection, sets.test):
            images.warn_of_bad()

    def log(self, event: str, **values: Any) -> None:
        """Adds a line to `log.jsonl`."""
        line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **values}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if event in ("ranked", "measured"):
            shown = ", ".join(f"{key} {value}" for key, value in values.items())
            console().print(f"{event}: {shown}", markup=False)

    def _loader(self, images: ImageSet) -> Any:
        data = self.recipe.data
        return loader(images, data.batch_size, workers=data.workers)

    def _answers(self, model: nn.Module, images: Tensor) -> list[str]:
        with inference(model), torch.no_grad(), autocast(self.device, self.recipe.precision):
            best = model(to_device(images, self.device)).argmax(1).tolist()
        return [self._class_name(index) for index in best]

    def _class_name(self, index: int) -> str:
        if index == UNLABELLED:
            return "no label"
        names = self.model.labels or self.sets.test.classes or ()
        return names[index] if index < len(names) else str(index)

    def environment(self) -> dict[str, Any]:
        """What the run was started with."""
        path = self.folder / "environment.json"
        if not path.exists():
            files.write_json(path, environment(self.device))
        return files.read_json(path)


def _png(image: Tensor) -> str:
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((EXAMPLE_PIXELS, EXAMPLE_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
