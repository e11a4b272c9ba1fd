"""The sites that `auto` chooses by structure in many architectures.

    python -m benchmarks.networks.sites

Weights are random: the structure does not depend on them. Writes
benchmarks/results/networks/sites.json and the table in docs/networks.md. A few minutes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.networks.architectures import ARCHITECTURES, Architecture, built
from benchmarks.pages import DOCS, fill
from deepcorrect.networks import structure_of
from deepcorrect.runtime import files

RESULTS = Path(__file__).parent.parent / "results" / "networks" / "sites.json"
ROLES = ("stem", "sums", "bottlenecks", "mlps", "convolutions")


def found_in(architecture: Architecture) -> dict[str, Any]:
    """What the structure of a network is."""
    size = architecture.size
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    structure = structure_of(built(architecture), images)
    return {
        "network": architecture.spec,
        "family": architecture.family,
        "auto": structure.auto,
        "sites": structure.sites(),
        "unnamed_sums": structure.unnamed_sums,
        **{role: len(getattr(structure, role)) for role in ROLES},
    }


def table(records: list[dict[str, Any]]) -> str:
    """The records as Markdown."""
    lines = [
        "| network | family | `auto` | sites | from | to | sums (without a module) | bottlenecks "
        "| MLPs | convolutions |",
        "| --- | --- | --- | ---: | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for record in records:
        sites, unnamed = record["sites"], record["unnamed_sums"]
        sums = f"{record['sums']}" + (f" ({unnamed})" if unnamed else "")
        cells = [f"`{record['network']}`", record["family"], f"`{record['auto']}`"]
        cells += [f"{len(sites)}", f"`{sites[0]}`", f"`{sites[-1]}`", sums]
        cells += [f"{record[role]}" for role in ("bottlenecks", "mlps", "convolutions")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Finds all structures and writes the table."""
    records = []
    for architecture in ARCHITECTURES:
        records.append(found_in(architecture))
        print(json.dumps(records[-1]), flush=True)
    files.write_json(RESULTS, records)
    fill(DOCS / "networks.md", {"sites": table(records)})


if __name__ == "__main__":
    main()
