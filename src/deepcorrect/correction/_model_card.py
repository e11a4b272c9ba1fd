"""The model card of a saved adapter: its purpose, accuracy, cost and use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepcorrect.correction._config import AdapterConfig

CARD_FILE = "README.md"
ENDS = "<!-- Below this line the card is yours: saving again leaves it. -->"


def card(config: AdapterConfig, bytes: int, folder: str = "DIR") -> str:
    """Writes a Hub model card in Markdown, with its YAML front matter.

    Args:
        config: The adapter's configuration. The card uses these of its notes: `model` (the MODEL
            spec), `base_model` (its Hub repository), `license`, `distortions`, `data` (of the
            training), `images_seen`, `training_seconds`, `validation_mean_top1`; `measured`, with
            `data`, `images`, and `baseline` and `corrected` in the form of `Grid.to_json`; `cost`,
            with `multiply_adds`, `base_multiply_adds`, `base_parameters` and `latency`, with
            `ratio`, `milliseconds`, `runtime`, `threads` and `batch`. Notes that are absent are
            not mentioned.
        bytes: The size of the adapter's tensors file.
        folder: The adapter's name in the examples of the card.
    """
    from huggingface_hub import ModelCardData  # noqa: PLC0415  (slow to import)

    notes = config.notes
    base_model = notes.get("base_model") or _hub_model(notes.get("model"))
    tags = ["deepcorrect", "image-classification", "robustness", "adapter", *_kinds(notes)]
    front = ModelCardData(
        library_name="deepcorrect",
        pipeline_tag="image-classification",
        license=notes.get("license", "unknown"),
        tags=list(dict.fromkeys(tags)),
        base_model=base_model,
        base_model_relation="adapter" if base_model else None,
    )
    sections = [
        _head(config),
        _accuracies(notes),
        _cost(config, bytes),
        _sites(config),
        _loading(notes, folder),
        "## Licence\n\n" + _licence(notes),
    ]
    text = "\n\n".join(section for section in sections if section)
    return f"---\n{front.to_yaml()}\n---\n\n{text}\n\n{ENDS}\n"


def user_text(path: Path) -> str:
    """The text that a user added below the last line of a card; empty if there is no file.

    A README.md that is not a card of ours counts as the user's text.
    """
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8")
    _, found, below = text.partition(ENDS)
    return below.lstrip("\n") if found else text


def _head(config: AdapterConfig) -> str:
    notes = config.notes
    kinds = ", ".join(f"`{_distortion(entry)}`" for entry in notes.get("distortions", ()))
    filters = sum(len(site.filters) for site in config.sites.values())
    seen = f", on {notes['data']}" if notes.get("data") else ""
    lines = [
        f"# Correction adapter for {config.base}",
        "",
        "A correction that keeps the accuracy of an image classifier on distorted images. The "
        "classifier's own weights are untouched: without the adapter, it answers as before.",
        "",
        f"- Base network: `{notes.get('model', config.base)}`, recognised by the fingerprint "
        f"`{config.fingerprint[:16]}`; no other network is accepted",
        f"- Corrected: {filters} filters of {len(config.sites)} sites",
    ]
    if config.gate:
        share = f"{100 * config.gate.false_alarms:.3g} %"
        answer = {
            "network": "the base network's own answer",
            "mean": "the mean of the base network's and the corrected network's answers",
        }[config.gate.others]
        lines.append(
            f"- Gate: images that look undistorted get {answer}; "
            f"{share} of the undistorted images like those it was fitted to are corrected all "
            "the same"
        )
    if kinds:
        lines.append(f"- Trained for: {kinds}{seen}")
    if notes.get("images_seen"):
        seconds = notes.get("training_seconds")
        took = f", {seconds:.0f} s" if isinstance(seconds, int | float) else ""
        lines.append(f"- Training: {notes['images_seen']:,} images, repeats counted{took}")
    lines.append(
        "- Method: DeepCorrect (Borkar and Karam, IEEE TIP 28(12), 2019; "
        "[arXiv:1705.02406](https://arxiv.org/abs/1705.02406))"
    )
    return "\n".join(lines)


def _accuracies(notes: Mapping[str, Any]) -> str:
    measured = notes.get("measured")
    if not measured:
        best = notes.get("validation_mean_top1")
        if best is None:
            return (
                "## Accuracy\n\nNot measured when it was saved: `deepcorrect evaluate` measures it."
            )
        return (
            f"## Accuracy\n\nMean top-1 on its validation images, clean and distorted: {best:.1%}. "
            "`deepcorrect evaluate` measures it beside the untouched network."
        )
    before, after = measured["baseline"], measured["corrected"]
    lines = [
        "## Accuracy",
        "",
        f"Top-1 on {measured['images']:,} images of {measured['data']}, untouched → corrected.",
        "",
        "| distortion | clean | " + "levels | mean |",
        "| --- | --- | --- | --- |",
    ]
    for kind, corrected in after.items():
        untouched = before[kind]
        levels = "; ".join(
            f"{level:g}: {_percent(old)} → {_percent(new)}"
            for level, old, new in zip(
                corrected["levels"], untouched["top1"], corrected["top1"], strict=True
            )
        )
        cells = [
            f"{_percent(untouched[key])} → {_percent(corrected[key])}"
            for key in ("clean_top1", "mean_top1")
        ]
        lines.append(f"| `{kind}` | {cells[0]} | {levels} | {cells[1]} |")
    return "\n".join([*lines, "", "The mean is over the clean images and all levels."])


def _cost(config: AdapterConfig, bytes: int) -> str:
    cost = config.notes.get("cost", {})
    lines = ["## Cost", "", "| | adapter | network |", "| --- | --- | --- |"]
    lines.append(f"| parameters | {config.parameters:,} | {_number(cost.get('base_parameters'))} |")
    lines.append(
        f"| multiply-adds per image | {_number(cost.get('multiply_adds'))} | "
        f"{_number(cost.get('base_multiply_adds'))} |"
    )
    if cost.get("latency"):
        lines.append(_latency(cost["latency"]))
    lines.append(f"| file | {bytes / 1e6:.2f} MB | |")
    return "\n".join(lines)


def _latency(measured: Mapping[str, Any]) -> str:
    """The row of the measured time: that of the corrected images, and the network's own."""
    batch, threads = measured["batch"], measured["threads"]
    of = "image" if batch == 1 else f"batch of {batch}"
    on = f"{measured['runtime']}, {threads} thread{'s' if threads > 1 else ''}"
    own = measured["milliseconds"] / measured["ratio"]
    added = 100 * (measured["ratio"] - 1)
    return f"| latency per corrected {of} ({on}) | {added:+.1f} % | {own:.3g} ms |"


def _sites(config: AdapterConfig) -> str:
    lines = ["## Sites", "", "| site | corrected filters | of | by |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{name}` | {len(site.filters)} | {site.channels} | {site.corrected_by} |"
        for name, site in config.sites.items()
    ]
    return "\n".join(lines)


def _loading(notes: Mapping[str, Any], folder: str) -> str:
    spec = notes.get("model", "MODEL")
    return f"""## Loading

```python
import deepcorrect as dc  # pip install deepcorrect-torch

model = dc.load_model("{spec}")  # or your own: any module with the same layers and weights
adapted = dc.load_adapter(model, "{folder}")  # a folder, or hf:OWNER/NAME[@REVISION]
logits = adapted(images)  # N x C x H x W, in [0, 1]
with adapted.disable_adapter():  # the untouched network
    logits = adapted(images)
```

```sh
deepcorrect predict FILES --model {spec} --adapter {folder}
```"""


def _licence(notes: Mapping[str, Any]) -> str:
    if notes.get("license"):
        return f"The adapter's weights: {notes['license']}. The base network keeps its own."
    return (
        "None was stated for these weights (give `license` among the notes of `save_pretrained`, "
        "or `deepcorrect push --license`). The base network keeps its own."
    )


def _hub_model(spec: object) -> str | None:
    """The Hub repository that a MODEL spec names, or None."""
    kind, _, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if kind == "hf" and re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) and not Path(name).exists():
        return name
    if kind == "timm" and "." in name and "/" not in name:  # NAME.TAG: trained weights
        return f"timm/{name}"
    return None


def _kinds(notes: Mapping[str, Any]) -> list[str]:
    return [entry["name"] for entry in notes.get("distortions", ()) if "name" in entry]


def _distortion(entry: Mapping[str, Any]) -> str:
    levels = ",".join(f"{level:g}" for level in entry.get("levels") or ())
    return f"{entry.get('name')}:{levels}" if levels else str(entry.get("name"))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "not measured"
