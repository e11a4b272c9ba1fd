"""What commands print on stdout: tables for people, or one JSON document."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deepcorrect import distortions as distortion_room
from deepcorrect import ranking


def print_results(results: dict[str, Any]) -> None:
    """The accuracy table: a row a distortion and system, a column a level."""
    screen = Console(width=None if sys.stdout.isatty() else 160)
    systems: dict[str, Any] = results["systems"]
    first = next(iter(systems.values()))
    for name, values in first["distortions"].items():
        unit = distortion_room.kind_of(name).unit
        table = Table(title=f"{name} ({unit}): top-1 accuracy", title_justify="left")
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
                *("" if share is None else f"{share:.3f}" for share in shares),
                f"{record['trainable_parameters']:,}",
                f"{record['multiply_adds'] / 1e6:.1f}",
            )
        screen.print(table)


def print_corruption_error(found: dict[str, Any]) -> None:
    """A row a corruption: its mean error, and that over the reference's; then their means."""
    reference = found["reference"]
    headings = ["corruption", "error"]
    headings += [f"over {reference}", "relative"] if reference else []
    table = Table(*headings, title="top-1 error, means over levels", title_justify="left")

    def row(name: str, values: list[float | None]) -> None:
        shown = ["" if value is None else f"{value:.3f}" for value in values]
        table.add_row(name, *shown[: len(headings) - 1])

    for kind, one in found["by_corruption"].items():
        row(kind, [one["error"], one["ce"], one["relative_ce"]])
    table.add_section()
    row("mean of the common", [found["mean"], found["mce"], found["relative_mce"]])
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    missing = 15 - found["corruptions"]
    if missing:
        print(f"{found['corruptions']} of the 15 common corruptions are in these means.")
    if reference:
        print("The means over the reference are mCE and relative mCE.")


def print_ranking(ranked: ranking.Ranking, as_json: bool) -> None:
    """A row a site: its first filters, and the range of its priorities."""
    priorities = ranked.priorities
    if as_json:
        values = {site: scores.tolist() for site, scores in priorities.items()}
        print(json.dumps(ranked.info() | {"priorities": values}))
        return
    table = Table("site", "filters", "first filters", "highest priority", "lowest")
    for site, scores in priorities.items():
        first = ", ".join(str(index) for index in ranked.order(site)[:8])
        table.add_row(site, str(len(scores)), first, f"{scores.max():.4f}", f"{scores.min():.4f}")
    Console().print(table)


def print_comparison(
    folders: tuple[Path, Path],
    agreement: ranking.Agreement,
    areas: tuple[ranking.IdealCorrection, ranking.IdealCorrection] | None,
    as_json: bool,
) -> None:
    values: dict[str, Any] = {
        "rankings": [str(folder) for folder in folders],
        "beta": agreement.beta,
        "spearman": agreement.spearman,
        "overlap": agreement.overlap,
        "mean_spearman": agreement.mean_spearman,
        "mean_overlap": agreement.mean_overlap,
    }
    lead = ranking.lead(*areas) if areas is not None else None
    if areas is not None and lead is not None:
        values["ideal"] = {
            "images": areas[0].images,
            "areas": {s: [each.area(s) for each in areas] for s in agreement.overlap},
            "mean_areas": [float(each.by_image.mean()) for each in areas],
            "lead_of_first": lead.mean,
            "lead_interval": [lead.low, lead.high],
        }
    if as_json:  # which has no word for what is not a number
        values["spearman"] = {
            site: None if math.isnan(value) else value for site, value in agreement.spearman.items()
        }
        values["mean_spearman"] = (
            None if math.isnan(agreement.mean_spearman) else agreement.mean_spearman
        )
        print(json.dumps(values))
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
    if areas is None or lead is None:
        print("Give --model and --data to compare them by ideal correction too.")
    else:
        print(
            f"A's mean area minus B's: {lead.mean:+.4f}, 95 % interval {lead.low:+.4f} to "
            f"{lead.high:+.4f} (resampling {areas[0].images:,} images)"
        )
