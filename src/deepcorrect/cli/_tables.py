"""What commands print on stdout: tables for people, or one JSON document."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from deepcorrect.ranking import Agreement, IdealCorrection, Lead, Ranking


def print_results(results: dict[str, Any], measured: str = "top-1 accuracy") -> None:
    """Prints a table of accuracies per distortion, with a row per system and a column per level.

    Args:
        results: the content of `results.json`, of which `systems` is used.
        measured: what the accuracies are, for the title.
    """
    from deepcorrect.distortions import kind_of

    screen = Console(width=None if sys.stdout.isatty() else 160)
    systems: dict[str, Any] = results["systems"]
    first = next(iter(systems.values()))
    if first.get("target") == "prediction":
        measured = "agreement with the network's own predictions for the clean images"
    for name, values in first["distortions"].items():
        unit = kind_of(name).unit
        table = Table(title=f"{name} ({unit}): {measured}", title_justify="left")
        table.add_column("system")
        for heading in (
            "clean",
            *(f"{v:g}" for v in values["levels"]),
            "mean",
            "trained",
            "M mult-adds",
        ):
            table.add_column(heading, justify="right")
        for system, record in systems.items():
            curve = record["distortions"][name]
            shares = (curve["clean_top1"], *curve["top1"], curve["mean_top1"])
            table.add_row(
                system,
                *(f"{share:.3f}" for share in shares),
                f"{record['trainable_parameters']:,}",
                f"{record['multiply_adds'] / 1e6:.1f}",
            )
        screen.print(table)


def print_transfer(results: dict[str, Any]) -> None:
    """Prints the accuracies of an SVM on features, and what it was trained on."""
    print_results(results, "accuracy of a linear SVM on features")
    for name, record in results["systems"].items():
        svm = record["svm"]
        print(
            f"{name}: {svm['features']:,} features, SVM of {svm['classes']:,} classes on "
            f"{svm['train_images']:,} undistorted images, C = {svm['c']:g}"
            + (" by cross-validation" if svm["validation"] else "")
        )


def print_analysis(found: dict[str, Any]) -> None:
    """Prints the analyses of a run: tables of maps, of ideal correction and of features.

    Args:
        found: the content of `analysis.json`.
    """
    screen = Console(width=None if sys.stdout.isatty() else 160)
    maps = _by_system(
        "maps of the corrected filters: medians",
        ("PSNR, dB", "gain", "improved", "SSIM", "gain", "improved"),
    )
    ideal = _by_system(
        "top-1 accuracy, averaged over the levels",
        ("baseline", "learned", "ideal", "learned of ideal gain"),
    )
    for system, one in found["maps"].items():
        for name, by_measure in one["distortions"].items():
            cells: list[str] = []
            for measure, digits in (("psnr", 1), ("ssim", 3)):
                before, after, gain, improved = by_measure[measure]["all"].values()
                if gain is None:
                    cells += ["-"] * 3
                    continue
                cells.append(f"{before:.{digits}f} -> {after:.{digits}f}")
                cells += [f"{gain:+.{digits}f}", f"{100 * improved:.0f} %"]
            maps.add_row(system, name, *cells)
    for system, one in found["ideal"].items():
        for name, curves in one["distortions"].items():
            rivals = (curves[key] for key in ("baseline", "learned", "ideal"))
            cells = [f"{sum(top1) / len(top1):.3f}" for top1 in rivals]
            share = curves["recovered"]
            ideal.add_row(system, name, *cells, "-" if share is None else f"{100 * share:.0f} %")
    near = found["features"]
    levels = max(len(one["levels"]) for one in near["distortions"].values())
    features = _by_system(
        f"nearest clean feature is of the same class ({len(near['classes'])} classes), by level",
        ("clean", *(f"level {place + 1}" for place in range(levels))),
    )
    for system, clean in near["clean"].items():
        for name, one in near["distortions"].items():
            shares = (clean, *one["untouched"][system])
            features.add_row(system, name, *(f"{share:.3f}" for share in shares))
    for table in (maps, ideal, features):
        screen.print(table)


def _by_system(title: str, headings: Iterable[str]) -> Table:
    """An empty table that shall have one row per system and distortion."""
    table = Table(title=title, title_justify="left")
    for heading in ("system", "distortion"):
        table.add_column(heading)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def print_corruption_error(found: dict[str, Any]) -> None:
    """Prints a table with a row per corruption, and the means over the fifteen common ones.

    A row has the corruption's error at each level, their mean, and its corruption error (CE).

    Args:
        found: the result of `corruption_error`.
    """
    rows = found["by_corruption"]
    levels = sorted({level for one in rows.values() for level in one["levels"]})
    table = Table(title="top-1 error by level", title_justify="left")
    table.add_column("corruption")
    for heading in (*(f"{level:g}" for level in levels), "mean"):
        table.add_column(heading, justify="right")
    if found["reference"]:
        table.add_column("CE", justify="right")
    table.add_column("relative CE" if found["reference"] else "above clean", justify="right")
    for group in ("common", "extra", "other"):
        for name, one in rows.items():
            if one["group"] != group:
                continue
            errors = dict(zip(one["levels"], one["errors"], strict=True))
            shown = [errors.get(level) for level in levels] + [one["mean"]]
            shown += [one["ce"]] if found["reference"] else []
            shown.append(one["relative_ce"])
            table.add_row(name, *("" if value is None else f"{value:.3f}" for value in shown))
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    for line in _corruption_lines(found):
        print(line)


def _corruption_lines(found: dict[str, Any]) -> Iterator[str]:
    name = found["reference"]
    over = {None: "not normalised", "alexnet": "over AlexNet"}.get(name, f"over {name}")
    if found["mean"] is not None:
        yield f"mean error over the common corruptions: {found['mean']:.3f}"
    if found["mce"] is not None:
        yield f"mean corruption error (mCE), {over}: {found['mce']:.3f}"
    if found["relative_mce"] is not None:
        yield f"relative mean corruption error, {over}: {found['relative_mce']:.3f}"
    if found["missing"]:
        yield (
            f"{found['in_mce']} of the 15 common corruptions are in the mCE, without "
            f"{', '.join(found['missing'])}"
        )
    if name and any(one["ce"] is None for one in found["by_corruption"].values()):
        yield f"where the CE is missing, {name} was not measured at these levels"
    extra = [kind for kind, one in found["by_corruption"].items() if one["group"] == "extra"]
    if extra:
        yield f"not among the fifteen, and not in any mean: {', '.join(extra)}"


def print_ranking(ranking: Ranking, as_json: bool) -> None:
    """Prints a table with a row per site: its first filters, and the range of its priorities."""
    priorities = ranking.priorities
    if as_json:
        values = {site: scores.tolist() for site, scores in priorities.items()}
        print(json.dumps(ranking.info() | {"priorities": values}))
        return
    table = Table("site", "filters", "first filters", "highest priority", "lowest")
    for site, scores in priorities.items():
        first = ", ".join(str(index) for index in ranking.order(site)[:8])
        table.add_row(site, str(len(scores)), first, f"{scores.max():.4f}", f"{scores.min():.4f}")
    Console().print(table)


def print_comparison(
    folders: tuple[Path, Path],
    agreement: Agreement,
    areas: tuple[IdealCorrection, IdealCorrection] | None,
    as_json: bool,
) -> None:
    """Prints how far two rankings agree, and how much ideal correction of each restores.

    Args:
        folders: the rankings' folders, for the title.
        agreement: rank correlation and overlap per site.
        areas: both rankings' ideal-correction curves, if they were computed.
        as_json: print one JSON document instead of a table.
    """
    from deepcorrect.ranking import lead

    ahead = lead(*areas) if areas else None
    if as_json:
        print(json.dumps(_comparison_record(folders, agreement, areas, ahead)))
        return
    headings = ["site", "Spearman", f"overlap of the first {agreement.beta:.0%}"]
    headings += ["ideal area, A", "ideal area, B"] if areas else []
    table = Table(*headings, title=f"A: {folders[0]}\nB: {folders[1]}", title_justify="left")
    for site, overlap in agreement.overlap.items():
        row = [site, f"{agreement.spearman[site]:.3f}", f"{overlap:.3f}"]
        table.add_row(*row, *(f"{each.area(site):.4f}" for each in areas or ()))
    row = ["mean", f"{agreement.mean_spearman:.3f}", f"{agreement.mean_overlap:.3f}"]
    table.add_section()
    table.add_row(*row, *(f"{float(each.by_image.mean()):.4f}" for each in areas or ()))
    Console().print(table)
    if areas is None or ahead is None:
        print("Give --model and --data to compare them by ideal correction too.")
    else:
        print(
            f"A's mean area minus B's: {ahead.mean:+.4f}, 95 % interval {ahead.low:+.4f} to "
            f"{ahead.high:+.4f} (resampling {areas[0].images:,} images)"
        )


def _comparison_record(
    folders: tuple[Path, Path],
    agreement: Agreement,
    areas: tuple[IdealCorrection, IdealCorrection] | None,
    ahead: Lead | None,
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "rankings": [str(folder) for folder in folders],
        "beta": agreement.beta,
        "spearman": {site: _number(value) for site, value in agreement.spearman.items()},
        "overlap": agreement.overlap,
        "mean_spearman": _number(agreement.mean_spearman),
        "mean_overlap": agreement.mean_overlap,
    }
    if areas and ahead:
        record["ideal"] = {
            "images": areas[0].images,
            "areas": {site: [each.area(site) for each in areas] for site in agreement.overlap},
            "mean_areas": [float(each.by_image.mean()) for each in areas],
            "lead_of_first": ahead.mean,
            "lead_interval": [ahead.low, ahead.high],
        }
    return record


def _number(value: float) -> float | None:
    """The value; None instead of NaN, which JSON does not have."""
    return None if math.isnan(value) else value
