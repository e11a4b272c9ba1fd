"""Tables and plots of docs/ranking.md, from benchmarks/results/ranking, without measuring.

python benchmarks/ranking/draw.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from subjects import RESULTS

from deepcorrect import files
from deepcorrect.report._figures import INK, MUTED, SETTINGS

DOCS = Path(__file__).parent.parent.parent / "docs"
NETWORKS = {"resnet20": "ResNet-20", "allcnn": "the paper's network"}
COLORS = {"resnet20": "#0072b2", "allcnn": "#d55e00", "both": INK}


def table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def span(values: list[float]) -> str:
    return f"{100 * values[0]:+.2f} to {100 * values[1]:+.2f}"


def judged(quality: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Results by network, and for both, each by method."""
    found = {name: quality[name]["methods"] for name in NETWORKS if name in quality}
    return found | {"both": quality["both"]} if quality["both"] else found


def methods_of(found: dict[str, dict[str, Any]]) -> list[str]:
    """Every method that was judged on some network."""
    return list(dict.fromkeys(method for each in found.values() for method in each))


def quality_table(quality: dict[str, Any]) -> str:
    found = judged(quality)
    headings = ["method"]
    for name in found:
        headings += [f"{NETWORKS.get(name, name)}: area", "lead, points"]
    rows = []
    for method in methods_of(found):
        row = [f"`{method}`"]
        for each in found.values():
            one = each.get(method)
            row.append(f"{one['area']:.4f}" if one else "")
            row.append(
                f"{100 * one['lead_over_swap']:+.2f} ({span(one['lead_interval'])})"
                if one and method != "swap"
                else ""
            )
        rows.append(row)
    return table(headings, rows)


def stability_table(quality: dict[str, Any]) -> str:
    found = {name: each for name, each in judged(quality).items() if name != "both"}
    headings = ["method"]
    for name in found:
        headings += [f"{NETWORKS[name]}: top-half overlap", "Spearman"]
    rows = []
    for method in methods_of(found):
        row = [f"`{method}`"]
        for each in found.values():
            one = each.get(method)
            row += [f"{one['top_half_overlap']:.3f}", f"{one['spearman']:.3f}"] if one else ["", ""]
        if method != "random":
            rows.append(row)
    return table(headings, rows)


def exact_table(speed: dict[str, Any]) -> str:
    rows = []
    for name in (n for n in NETWORKS if n in speed):
        runs = speed[name]["runs"]
        compared = sum(run["compared"] for run in runs)
        apart = max(
            sum(run[f"counts_apart_from_{peer}"] for run in runs) for peer in ("hook", "captum")
        )
        rows.append(
            [
                NETWORKS[name],
                f"{speed[name]['filters']:,}",
                f"{speed[name]['ratio_to_hook']:.1f}",
                f"{speed[name]['ratio_to_captum']:.1f}",
                f"{apart} of {compared:,}",
                f"{speed[name]['one_time_export_seconds']:.1f} s",
            ]
        )
    return table(
        [
            "network",
            "filters",
            "times as fast as hooks",
            "times as fast as Captum",
            "answers apart",
            "export, once",
        ],
        rows,
    )


def estimates_table(speed: dict[str, Any]) -> str:
    networks = [name for name in NETWORKS if name in speed]
    headings = ["method"]
    for name in networks:
        headings += [f"{NETWORKS[name]}: hooks took", "our exact swaps took"]
    wide = {"resnet50": "ResNet-50 at 224 px", "efficientnet": "EfficientNet-Lite0"}
    wide = {name: title for name, title in wide.items() if name in speed}
    headings += [f"{title}: hooks took" for title in wide.values()]
    rows = []
    for method in speed[networks[0]]["estimates"]:
        row = [f"`{method}`"]
        for name in networks:
            one = speed[name]["estimates"][method]
            row += [f"{one['hook_over_estimate']:,.0f} times", f"{one['exact_over_estimate']:,.0f}"]
        for name in wide:
            one = speed[name].get(method)
            row.append(f"{one['hook_over_estimate']:,.0f} times" if one else "")
        rows.append(row)
    return table(headings, rows)


def scaling_table(scaling: dict[str, Any]) -> str:
    rows = []
    for method, axes in scaling.items():
        if isinstance(axes, dict):
            for axis, found in axes.items():
                points = found["points"]
                key = "filters" if axis == "width" else axis
                rows.append(
                    [
                        f"`{method}`, {key}",
                        " → ".join(f"{p[key]:,}" for p in points),
                        " → ".join(f"{p['seconds']:.2f}" for p in points),
                        f"{found['time_exponent']:.2f}",
                        " → ".join(f"{p['peak_megabytes']:.0f}" for p in points),
                        f"{found['memory_exponent']:.2f}",
                    ]
                )
    return table(["grows", "from, to", "seconds", "exponent", "peak MB", "exponent"], rows)


def budget_table(budget: dict[str, Any]) -> str:
    rows = [["untouched network", "", "", "", f"{budget['baseline']:.4f}"]]
    for name, one in budget["choices"].items():
        rows.append(
            [
                name,
                f"{one['parameters']:,}",
                f"{one['multiply_adds'] / 1e6:.1f} M",
                f"{one['clean_top1']:.3f}",
                f"{one['mean_top1']:.4f}",
            ]
        )
    return table(
        ["filters chosen by", "parameters", "multiply-adds", "clean top-1", "mean top-1"], rows
    )


def bfloat16_table(speed: dict[str, Any]) -> str:
    rows = [
        [
            f"`{method}`",
            f"{one['spearman']:.3f}",
            f"{one['top_half_overlap']:.3f}",
            f"{one['seconds'][0] / one['seconds'][1]:.1f}",
        ]
        for method, one in speed["bfloat16"].items()
        if isinstance(one, dict)
    ]
    return table(["method", "Spearman", "top-half overlap", "times as fast"], rows)


def quality_figure(quality: dict[str, Any]) -> Figure:
    """Each method's lead over the paper's metric, with its interval."""
    found = judged(quality)
    with rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        panel = figure.add_subplot()
        every = [m for m in methods_of(found) if m != "swap"]
        for shift, (name, each) in enumerate(found.items()):
            methods = [m for m in every if m in each]
            leads = [100 * each[m]["lead_over_swap"] for m in methods]
            low = [100 * (each[m]["lead_over_swap"] - each[m]["lead_interval"][0]) for m in methods]
            high = [
                100 * (each[m]["lead_interval"][1] - each[m]["lead_over_swap"]) for m in methods
            ]
            places = [every.index(m) + 0.22 * (shift - (len(found) - 1) / 2) for m in methods]
            label = NETWORKS.get(name, "both")
            panel.errorbar(
                leads, places, xerr=[low, high], fmt="o", ms=4, color=COLORS[name], label=label
            )
        panel.axvline(0, color=MUTED, lw=1)
        panel.set_yticks(range(len(every)), every)
        panel.invert_yaxis()
        panel.set_xlabel("ideal-correction area minus the paper's swap's, points (95 % interval)")
        panel.legend(frameon=False, loc="upper left")
    return figure


def scaling_figure(scaling: dict[str, Any]) -> Figure:
    """Time and memory against filters, images and levels, on logarithmic axes."""
    with rc_context(SETTINGS):
        figure = Figure(figsize=(8.4, 4.6), layout="constrained")
        axes = {"width": "filters", "images": "images", "levels": "levels"}
        for column, (axis, key) in enumerate(axes.items()):
            for row, (value, label) in enumerate(
                (("seconds", "seconds"), ("peak_megabytes", "peak MB"))
            ):
                panel = figure.add_subplot(2, 3, row * 3 + column + 1)
                (method,) = (m for m, v in scaling.items() if isinstance(v, dict))
                found = scaling[method][axis]
                slope = found["time_exponent" if value == "seconds" else "memory_exponent"]
                panel.loglog(
                    [p[key] for p in found["points"]],
                    [p[value] for p in found["points"]],
                    "o-",
                    color=COLORS["resnet20"],
                )
                panel.set_title(f"{method}: exponent {slope:.2f}", fontsize=9)
                panel.set_xlabel(key)
                panel.set_ylabel(label)
                panel.xaxis.set_minor_formatter(NullFormatter())
                panel.yaxis.set_minor_formatter(NullFormatter())
                panel.set_xticks([p[key] for p in found["points"]])
                panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
                panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                if value == "peak_megabytes":
                    panel.set_ylim(100, 5000)
    return figure


def main() -> None:
    page = DOCS / "ranking.md"
    text = page.read_text(encoding="utf-8")
    found = {
        name: files.read_json(RESULTS / f"{name}.json")
        for name in ("quality", "speed", "scaling", "budget")
        if (RESULTS / f"{name}.json").exists()
    }
    tables = {
        "quality": lambda: quality_table(found["quality"]),
        "stability": lambda: stability_table(found["quality"]),
        "exact": lambda: exact_table(found["speed"]),
        "estimates": lambda: estimates_table(found["speed"]),
        "bfloat16": lambda: bfloat16_table(found["speed"]),
        "scaling": lambda: scaling_table(found["scaling"]),
        "budget": lambda: budget_table(found["budget"]),
    }
    sources = {"stability": "quality"} | dict.fromkeys(("exact", "estimates", "bfloat16"), "speed")
    for name, make in tables.items():
        if sources.get(name, name) in found:
            marks = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
            made = make().replace("\\", r"\\")
            text = re.sub(marks, rf"\g<1>{made}\n\g<2>", text, flags=re.S)
    files.write_text(page, text)
    if "quality" in found:
        quality_figure(found["quality"]).savefig(DOCS / "images" / "ranking_quality.png", dpi=130)
    if "scaling" in found:
        scaling_figure(found["scaling"]).savefig(DOCS / "images" / "ranking_scaling.png", dpi=130)


if __name__ == "__main__":
    main()
