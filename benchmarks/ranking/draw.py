"""Tables and plots of docs/ranking.md, from benchmarks/results/ranking, without measuring.

python -m benchmarks.ranking.draw
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from benchmarks.pages import DOCS, fill, table
from benchmarks.subjects import RESULTS
from deepcorrect.experiments.report._looks import INK, MUTED, SETTINGS
from deepcorrect.runtime import files

NETWORKS = {"resnet20": "ResNet-20", "allcnn": "the paper's network"}
LARGE = {"resnet50": "ResNet-50 at 224 px", "efficientnet": "EfficientNet-Lite0"}
COLORS = {"resnet20": "#0072b2", "allcnn": "#d55e00", "both": INK}
CHOICES = {  # how names of budget.json begin or end: label, marker and colour
    "fixed": ("fixed beta", "o-", INK),
    " parameters": ("budget of parameters", "s", COLORS["resnet20"]),
    " multiply-adds": ("budget of multiply-adds", "^", COLORS["allcnn"]),
}


def span(values: list[float]) -> str:
    return f"{100 * values[0]:+.2f} to {100 * values[1]:+.2f}"


def judged(quality: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Results by network, and for both, each by method."""
    found = {name: quality[name]["methods"] for name in NETWORKS if name in quality}
    return found | {"both": quality["both"]} if quality["both"] else found


def methods_of(found: dict[str, dict[str, Any]]) -> list[str]:
    """Every method that was judged on some network."""
    return list(dict.fromkeys(method for each in found.values() for method in each))


def by_method(
    found: dict[str, dict[str, Any]],
    columns: Sequence[str],
    figures: Callable[[str, dict[str, Any]], list[str]],
    methods: Iterable[str],
) -> str:
    """A row a method: its figures on each network, empty where it was not judged."""
    headings = ["method"]
    for name in found:
        headings += [f"{NETWORKS.get(name, name)}: {columns[0]}", *columns[1:]]
    rows = []
    for method in methods:
        row = [f"`{method}`"]
        for each in found.values():
            one = each.get(method)
            row += figures(method, one) if one else [""] * len(columns)
        rows.append(row)
    return table(headings, rows)


def quality_table(quality: dict[str, Any]) -> str:
    def figures(method: str, one: dict[str, Any]) -> list[str]:
        lead = f"{100 * one['lead_over_swap']:+.2f} ({span(one['lead_interval'])})"
        return [f"{one['area']:.4f}", "" if method == "swap" else lead]

    found = judged(quality)
    return by_method(found, ["area", "lead, points"], figures, methods_of(found))


def stability_table(quality: dict[str, Any]) -> str:
    def figures(method: str, one: dict[str, Any]) -> list[str]:
        del method
        return [f"{one['top_half_overlap']:.3f}", f"{one['spearman']:.3f}"]

    found = {name: each for name, each in judged(quality).items() if name != "both"}
    methods = [method for method in methods_of(found) if method != "random"]
    return by_method(found, ["top-half overlap", "Spearman"], figures, methods)


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
            "counts apart, in answers",
            "export, once",
        ],
        rows,
    )


def estimates_table(speed: dict[str, Any]) -> str:
    networks = [name for name in NETWORKS if name in speed]
    headings = ["method"]
    for name in networks:
        headings += [f"{NETWORKS[name]}: hooks took", "our exact swaps took"]
    rows = []
    for method in speed[networks[0]]["estimates"]:
        row = [f"`{method}`"]
        for name in networks:
            one = speed[name]["estimates"][method]
            row += [f"{one['hook_over_estimate']:,.0f} times", f"{one['exact_over_estimate']:,.0f}"]
        rows.append(row)
    return table(headings, rows)


def large_table(speed: dict[str, Any]) -> str:
    """How many times as long as ours the hooks took on the large networks."""
    methods = ("gradient", "input_path", "conductance")
    headings = ["network", "filters", "`swap`", "counts apart", *(f"`{m}`" for m in methods)]
    rows = []
    for name in (n for n in LARGE if n in speed):
        one = speed[name]
        rows.append(
            [
                LARGE[name],
                f"{one['filters']:,}",
                f"{one['exact_ratio_to_hook']:.1f} times",
                f"{one['exact_counts_apart']}",
                *(f"{one[m]['hook_over_estimate']:,.0f} times" for m in methods),
            ]
        )
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
                        " → ".join(f"{p['peak_megabytes']:,.0f}" for p in points),
                        f"{found['memory_exponent']:.2f}",
                    ]
                )
    headings = ["what grows", "from, to", "seconds", "time's exponent"]
    return table([*headings, "peak MB", "memory's exponent"], rows)


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
            f"{one['seconds'][0]:.2f}",
            f"{one['seconds'][1]:.2f}",
            f"{one['seconds'][0] / one['seconds'][1]:.1f}",
        ]
        for method, one in speed["bfloat16"].items()
        if isinstance(one, dict)
    ]
    headings = ["method", "Spearman", "top-half overlap", "float32, s", "bfloat16, s"]
    return table([*headings, "times as fast"], rows)


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
    """Time and memory against filters, images and levels.

    Logarithmic axes; all panels of a row span the same, and all columns the same factor, so slopes
    compare.
    """
    (method,) = (m for m, v in scaling.items() if isinstance(v, dict))
    rows = {  # value: label, limits, ticks
        "seconds": ("seconds", (0.06, 6), (0.1, 0.3, 1, 3)),
        "peak_megabytes": ("peak MB", (60, 6000), (100, 300, 1000, 3000)),
    }
    with rc_context(SETTINGS):
        figure = Figure(figsize=(8.4, 5.0), layout="constrained")
        panels = figure.subplots(2, 3, sharex="col", sharey="row", squeeze=False)
        figure.suptitle(f"{method} on ResNet-20", fontsize=11)
        for column, axis in enumerate(("width", "images", "levels")):
            key = "filters" if axis == "width" else axis
            found = scaling[method][axis]
            places = [p[key] for p in found["points"]]
            middle = (places[0] * places[-1]) ** 0.5
            for row, (value, (label, limits, ticks)) in enumerate(rows.items()):
                panel = panels[row, column]
                values = [p[value] for p in found["points"]]
                panel.loglog(places, values, "o-", color=COLORS["resnet20"])
                slope = found["time_exponent" if value == "seconds" else "memory_exponent"]
                panel.set_title(f"exponent {slope:.2f}", fontsize=9)
                panel.set_ylim(*limits)
                panel.set_yticks(ticks)
                panel.set_xlim(middle / 4, middle * 4)
                panel.set_xticks(places)
                for each, form in ((panel.xaxis, "{x:,.0f}"), (panel.yaxis, "{x:,g}")):
                    each.set_major_formatter(StrMethodFormatter(form))
                    each.set_minor_locator(NullLocator())
                if column == 0:
                    panel.set_ylabel(label)
                if row == 1:
                    panel.set_xlabel(key)
    return figure


def budget_figure(budget: dict[str, Any]) -> Figure:
    """Accuracy of fixed shares and of budgets, against what they cost in both ways."""
    costs = {
        "parameters": (1e3, "parameters, thousands"),
        "multiply_adds": (1e6, "multiply-adds, millions"),
    }
    with rc_context(SETTINGS):
        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for panel, (cost, (unit, label)) in zip(panels, costs.items(), strict=True):
            for mark, (title, style, color) in CHOICES.items():
                points = sorted(
                    (one[cost] / unit, 100 * one["mean_top1"])
                    for name, one in budget["choices"].items()
                    if name.startswith(mark) or name.endswith(mark)
                )
                panel.plot(*zip(*points, strict=True), style, color=color, label=title)
            panel.set_xlim(0, 1.1 * max(one[cost] for one in budget["choices"].values()) / unit)
            panel.set_xlabel(f"added {label}")
        panels[0].set_ylabel("mean top-1, %")
        lines = panels[0].get_lines()
        figure.legend(handles=lines, frameon=False, loc="outside upper center", ncols=3)
    return figure


def main() -> None:
    found = {
        name: files.read_json(RESULTS / "ranking" / f"{name}.json")
        for name in ("quality", "speed", "scaling", "budget")
        if (RESULTS / "ranking" / f"{name}.json").exists()
    }
    tables = {
        "quality": lambda: quality_table(found["quality"]),
        "stability": lambda: stability_table(found["quality"]),
        "exact": lambda: exact_table(found["speed"]),
        "estimates": lambda: estimates_table(found["speed"]),
        "large": lambda: large_table(found["speed"]),
        "bfloat16": lambda: bfloat16_table(found["speed"]),
        "scaling": lambda: scaling_table(found["scaling"]),
        "budget": lambda: budget_table(found["budget"]),
    }
    of_speed = ("exact", "estimates", "large", "bfloat16")
    sources = {"stability": "quality"} | dict.fromkeys(of_speed, "speed")
    fill(
        DOCS / "ranking.md",
        {name: make() for name, make in tables.items() if sources.get(name, name) in found},
    )
    figures = {"quality": quality_figure, "scaling": scaling_figure, "budget": budget_figure}
    for name, draw in figures.items():
        if name in found:
            draw(found[name]).savefig(DOCS / "images" / f"ranking_{name}.png", dpi=130)


if __name__ == "__main__":
    main()
