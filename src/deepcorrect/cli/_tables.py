"""What commands print on stdout: tables for people, or one JSON document."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from deepcorrect.ranking import Agreement, IdealCorrection, Lead, Ranking


def print_results(results: dict[str, Any], measured: str = "top-1 accuracy") -> None:
    """Prints a table of accuracies per distortion, with a row per system and a column per level.

    Args:
        results: the content of `results.json`, of which `systems` is used.
        measured: what the accuracies are, for the title.
    """
    from deepcorrect.distortions import kind_of

    systems: dict[str, Any] = results["systems"]
    first = next(iter(systems.values()))
    if first.get("target") == "prediction":
        measured = "agreement with the network's own predictions for the clean images"
    for name, values in first["distortions"].items():
        unit = kind_of(name).unit
        levels = (f"{level:g}" for level in values["levels"])
        headings = ("clean", *levels, "mean", "trained", "M mult-adds")
        table = _table(f"{name} ({unit}): {measured}", ("system",), headings)
        for system, record in systems.items():
            curve = record["distortions"][name]
            shares = (curve["clean_top1"], *curve["top1"], curve["mean_top1"])
            table.add_row(
                system,
                *(f"{share:.3f}" for share in shares),
                f"{record['trainable_parameters']:,}",
                f"{record['multiply_adds'] / 1e6:.1f}",
            )
        _print(table)


def print_quantized(systems: dict[str, Any], target: str) -> None:
    """Prints what eight bits cost: a row per file, and below each pair what is lost.

    Args:
        systems: The `systems` of the JSON file that `quantize` wrote.
        target: What counted as right, `labels` or `prediction`.
    """
    from deepcorrect.distortions import kind_of

    measured = "top-1 accuracy" if target == "labels" else "agreement with the untouched network"
    names = [name for name in systems if f"{name}, int8" in systems]
    for kind, values in systems[names[0]]["distortions"].items():
        levels = (f"{level:g}" for level in values["levels"])
        headings = ("clean", *levels, "mean", "MB")
        table = _table(f"{kind} ({kind_of(kind).unit}): {measured}", ("network",), headings)
        for name in names:
            shares: list[list[float]] = []
            for file in (name, f"{name}, int8"):
                curve = systems[file]["distortions"][kind]
                shares.append([curve["clean_top1"], *curve["top1"], curve["mean_top1"]])
                size = f"{systems[file]['bytes'] / 1e6:.2f}"
                table.add_row(file, *(f"{share:.3f}" for share in shares[-1]), size)
            changes = (100 * (after - before) for before, after in zip(*shares, strict=True))
            table.add_row("  change, points", *(f"{change:+.1f}" for change in changes), "")
        _print(table)


def print_correction(notes: dict[str, Any], trained: int) -> None:
    """Prints the accuracies and costs of a network and of the corrected one.

    Args:
        notes: the notes of an adapter that `dc.correct` made from images.
        trained: the number of the adapter's parameters.
    """
    measured, cost = notes["measured"], notes["cost"]
    own = {"parameters": cost["base_parameters"], "multiply_adds": cost["base_multiply_adds"]}
    systems = {
        "baseline": (measured["baseline"], 0, own["multiply_adds"]),
        "corrected": (measured["corrected"], trained, own["multiply_adds"] + cost["multiply_adds"]),
    }
    records = {
        name: {
            "distortions": grid,
            "trainable_parameters": parameters,
            "multiply_adds": multiply_adds,
            "target": measured["target"],
        }
        for name, (grid, parameters, multiply_adds) in systems.items()
    }
    print_results({"systems": records})
    gain, interval = 100 * measured["gain"], 100 * measured["interval"]
    print(
        f"gain in the mean: {gain:+.1f} points +- {interval:.1f}, on {measured['images']:,} "
        "images that nothing was trained on"
    )
    shares = [
        f"{trained / own['parameters']:.0%} of the network's parameters",
        f"{cost['multiply_adds'] / own['multiply_adds']:.0%} of its multiply-adds",
    ]
    if latency := cost["latency"]:
        shares.append(
            f"{latency['ratio']:.2f} times its time for one corrected image "
            f"({latency['runtime']}, threads: {latency['threads']})"
        )
    print(f"cost: {', '.join(shares)}")


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
    _print(_maps(found["maps"]), _ideal(found["ideal"]), _features(found["features"]))


def _maps(systems: dict[str, Any]) -> Table:
    """How much closer correction brings the filters' maps to those of the clean image."""
    table = _table(
        "maps of the corrected filters: medians",
        ("system", "distortion"),
        ("PSNR, dB", "gain", "improved", "SSIM", "gain", "improved"),
    )
    for system, record in systems.items():
        for name, by_measure in record["distortions"].items():
            cells: list[str] = []
            for measure, digits in (("psnr", 1), ("ssim", 3)):
                before, after, gain, improved = by_measure[measure]["all"].values()
                if gain is None:
                    cells += ["-"] * 3
                    continue
                cells.append(f"{before:.{digits}f} -> {after:.{digits}f}")
                cells += [f"{gain:+.{digits}f}", f"{100 * improved:.0f} %"]
            table.add_row(system, name, *cells)
    return table


def _ideal(systems: dict[str, Any]) -> Table:
    """How much of the gain of ideal correction learned correction reaches."""
    table = _table(
        "top-1 accuracy, averaged over the levels",
        ("system", "distortion"),
        ("baseline", "learned", "ideal", "learned of ideal gain"),
    )
    for system, record in systems.items():
        for name, curves in record["distortions"].items():
            accuracies = (curves[key] for key in ("baseline", "learned", "ideal"))
            means = (f"{sum(top1) / len(top1):.3f}" for top1 in accuracies)
            share = curves["recovered"]
            table.add_row(system, name, *means, "-" if share is None else f"{100 * share:.0f} %")
    return table


def _features(record: dict[str, Any]) -> Table:
    """How often the nearest feature of a clean image is of the same class."""
    levels = max(len(each["levels"]) for each in record["distortions"].values())
    table = _table(
        f"nearest clean feature is of the same class ({len(record['classes'])} classes), by level",
        ("system", "distortion"),
        ("clean", *(f"level {number + 1}" for number in range(levels))),
    )
    for system, clean in record["clean"].items():
        for name, each in record["distortions"].items():
            shares = (clean, *each["untouched"][system])
            table.add_row(system, name, *(f"{share:.3f}" for share in shares))
    return table


def _table(title: str | None, names: Iterable[str], numbers: Iterable[str]) -> Table:
    """An empty table: the columns of names are aligned left, those of numbers right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in names:
        table.add_column(heading)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _print(*tables: Table) -> None:
    """Prints tables as wide as the terminal; wide enough for all columns where there is none."""
    from rich.console import Console

    screen = Console(width=None if sys.stdout.isatty() else 160)
    for table in tables:
        screen.print(table)


def print_corruption_error(found: dict[str, Any]) -> None:
    """Prints a table with a row per corruption, and the means over the fifteen common ones.

    A row has the corruption's error at each level, their mean, and its corruption error (CE).

    Args:
        found: the result of `corruption_error`.
    """
    rows = found["by_corruption"]
    levels = sorted({level for row in rows.values() for level in row["levels"]})
    headings = [*(f"{level:g}" for level in levels), "mean"]
    headings += ["CE", "relative CE"] if found["reference"] else ["above clean"]
    table = _table("top-1 error by level", ("corruption",), headings)
    for group in ("common", "extra", "other"):
        for name, row in rows.items():
            if row["group"] != group:
                continue
            errors = dict(zip(row["levels"], row["errors"], strict=True))
            shown = [errors.get(level) for level in levels] + [row["mean"]]
            shown += [row["ce"]] if found["reference"] else []
            shown.append(row["relative_ce"])
            table.add_row(name, *("" if value is None else f"{value:.3f}" for value in shown))
        table.add_section()
    _print(table)
    for line in _corruption_lines(found):
        print(line)


def _corruption_lines(found: dict[str, Any]) -> Iterator[str]:
    """What is said below the table: the means, and what is missing from them."""
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
    if name and any(row["ce"] is None for row in found["by_corruption"].values()):
        yield f"where the CE is missing, {name} was not measured at these levels"
    extra = [kind for kind, row in found["by_corruption"].items() if row["group"] == "extra"]
    if extra:
        yield f"not among the fifteen, and not in any mean: {', '.join(extra)}"


def print_ranking(ranking: Ranking, as_json: bool) -> None:
    """Prints a table with a row per site: its first filters, and the range of its priorities."""
    priorities = ranking.priorities
    if as_json:
        values = {site: scores.tolist() for site, scores in priorities.items()}
        print(json.dumps(ranking.info() | {"priorities": values}))
        return
    names, numbers = ("site", "filters", "first filters"), ("highest priority", "lowest")
    table = _table(None, names, numbers)
    for site, scores in priorities.items():
        first = ", ".join(str(index) for index in ranking.order(site)[:8])
        table.add_row(site, str(len(scores)), first, f"{scores.max():.4f}", f"{scores.min():.4f}")
    _print(table)


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
    headings = ["Spearman", f"overlap of the first {agreement.beta:.0%}"]
    headings += ["ideal area, A", "ideal area, B"] if areas else []
    table = _table(f"A: {folders[0]}\nB: {folders[1]}", ("site",), headings)
    for site, overlap in agreement.overlap.items():
        row = [site, f"{agreement.spearman[site]:.3f}", f"{overlap:.3f}"]
        table.add_row(*row, *(f"{each.area(site):.4f}" for each in areas or ()))
    row = ["mean", f"{agreement.mean_spearman:.3f}", f"{agreement.mean_overlap:.3f}"]
    table.add_section()
    table.add_row(*row, *(f"{float(each.by_image.mean()):.4f}" for each in areas or ()))
    _print(table)
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
