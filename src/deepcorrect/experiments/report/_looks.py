"""How the report's figures look: colours, markers and the settings of matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

INK, MUTED, RULE = "#1c2024", "#5b6570", "#d9dee3"
CORRECTED, UNTOUCHED = "#0072b2", "#b9c1c9"
SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 11,
    "text.parse_math": False,  # names may hold dollar signs
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "deepcorrect",
}


@dataclass(frozen=True)
class Look:
    """What distinguishes one line from the others: its colour, marker and dashes."""

    color: str
    marker: str
    dashes: str = "-"

    def line(self, **changes: Any) -> dict[str, Any]:
        """The look as keywords of matplotlib's `plot`."""
        values = {
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.dashes,
            "linewidth": 2,
            "markersize": 6.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
        }
        return values | changes

    def ring(self) -> dict[str, Any]:
        """A ring around one point of the line, as keywords of `plot`."""
        ring = self.line(marker="o", markersize=12, markeredgewidth=1.8)
        return ring | {"markerfacecolor": "none", "markeredgecolor": self.color}


# Okabe and Ito's palette for systems and Tol's muted one for distortions. Both are safe for
# colour-blind readers, and the markers differ as well.
KNOWN_SYSTEMS = {
    "baseline": Look("#4d4d4d", "s", "--"),
    "finetuned": Look("#d55e00", "^"),
    "finetuned_gated": Look("#cc79a7", "v"),
    "deepcorrect": Look("#0072b2", "o"),
}
OTHER_SYSTEMS = (
    Look("#009e73", "D"),
    Look("#e69f00", "P"),
    Look("#56b4e9", "X"),
)
DISTORTIONS = (
    Look("#332288", "o"),
    Look("#cc6677", "^"),
    Look("#117733", "s"),
    Look("#88ccee", "D"),
    Look("#999933", "v"),
    Look("#882255", "P"),
    Look("#44aa99", "X"),
)


def system_looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each system; the usual systems always look the same."""
    others = [name for name in names if name not in KNOWN_SYSTEMS]
    looks = {name: OTHER_SYSTEMS[i % len(OTHER_SYSTEMS)] for i, name in enumerate(others)}
    return {name: KNOWN_SYSTEMS.get(name) or looks[name] for name in names}


def distortion_looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each distortion."""
    return {name: DISTORTIONS[i % len(DISTORTIONS)] for i, name in enumerate(names)}
