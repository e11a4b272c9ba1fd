"""A ranking: the priorities of all filters, as an object and as files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from deepcorrect.distortions import LevelledDistortion
from deepcorrect.ranking._description import (
    SCHEMA,
    Description,
    LevelsOf,
    NetworkSize,
    check_priorities,
    checksum,
    read_description,
)
from deepcorrect.runtime import InputError, files, unknown

TENSORS_FILE = "ranking.safetensors"
LEVELS_FILE = "ranking_levels.safetensors"
INFO_FILE = "ranking.json"
DESCRIPTION, CHECKSUM = "ranking", "sha256"
"""What the header of `ranking_levels.safetensors` holds: the description as JSON, a SHA-256."""


@dataclass(frozen=True)
class Ranking:
    """The correction priority of every filter of every site (paper, section III; see `rank`).

    Attributes:
        by_level: for each site, priorities (levels, filters); the levels are those of all
            `distortions`, one after the other.
        method: how they were measured.
        distortions: with their levels.
        images: the number of clean images on which they were measured.
        seconds: the time that it took.
        seed: of the noise.
        target: what answers were measured against; see `rank`.
        maps: the height and width of each site's output.
        weights: the number of weights of each filter, for sites that are convolutions or linear
            layers.
        network: the size of the network.
        gains: whether priorities are gains of the network's answer, which are comparable across
            sites.

    Example:
        >>> import torch, deepcorrect as dc
        >>> from deepcorrect.distortions import parse_all
        >>> blur = parse_all("gaussian_blur:1", pixels=32)
        >>> gains = {"conv": torch.tensor([[0.1, 0.4, 0.0, 0.3]])}  # one level, four filters
        >>> ranking = dc.Ranking(gains, "swap", blur, images=100, seconds=1.0)
        >>> ranking.order("conv"), ranking.top(beta=0.5)
        ([1, 3, 0, 2], {'conv': [1, 3]})
    """

    by_level: dict[str, Tensor]
    method: str
    distortions: tuple[LevelledDistortion, ...]
    images: int
    seconds: float
    seed: int = 0
    target: str = "labels"
    maps: dict[str, tuple[int, int]] = field(default_factory=dict)
    network: NetworkSize | None = None
    gains: bool = True
    weights: dict[str, int] = field(default_factory=dict)

    @property
    def priorities(self) -> dict[str, Tensor]:
        """For each site the priorities of its filters, (filters,): their means over all levels."""
        return {site: values.mean(0) for site, values in self.by_level.items()}

    @property
    def sites(self) -> tuple[str, ...]:
        """The ranked sites, in the order of the network's modules."""
        return tuple(self.by_level)

    def order(self, site: str) -> list[int]:
        """The site's filters, highest priority first; filters of equal priority in index order."""
        if site not in self.by_level:
            raise unknown("ranked site", site, self.by_level)
        return torch.argsort(self.by_level[site].mean(0), descending=True, stable=True).tolist()

    def top(self, beta: float | Mapping[str, float] = 0.5) -> dict[str, list[int]]:
        """The filters to correct: the share `beta` of each site with the highest priorities.

        Args:
            beta: the share of a site's filters, above 0 and at most 1 (at least one filter is
                taken); one number for all sites, or one per site, where other sites are left out.

        Returns:
            For each site the indices of its filters, ascending.

        Raises:
            InputError: beta is not a share, or names a site that was not ranked.
        """
        shares = dict(beta) if isinstance(beta, Mapping) else dict.fromkeys(self.sites, beta)
        for site in shares:
            if site not in self.by_level:
                raise unknown("ranked site", site, self.by_level)
        return {
            site: sorted(self.order(site)[: count_for(shares[site], values.shape[1])])
            for site, values in self.by_level.items()
            if site in shares
        }

    def only(self, sites: Iterable[str]) -> Ranking:
        """The same ranking, restricted to some of its sites."""
        wanted = set(sites)
        for site in wanted:
            if site not in self.by_level:
                raise unknown("ranked site", site, self.by_level)
        kept = {site: values for site, values in self.by_level.items() if site in wanted}
        return replace(self, by_level=kept)

    def save(self, folder: str | Path) -> Path:
        """Writes the ranking as one file, `ranking_levels.safetensors`: the priorities of each site
        at each level, (levels, filters), under the site's name; in the header the rest and a
        checksum.

        Beside it are two files for other programs, from which nothing is read back: `ranking.json`
        with the description, and `ranking.safetensors` with the mean priorities, (filters,). A
        process that is killed leaves the earlier ranking or the new one, and the two files of that
        one or none.

        Raises:
            InputError: a priority is not finite, or something else is not a ranking's.
        """
        folder = Path(folder)
        check_priorities(self.by_level, self._levels, "the ranking")
        text = self._described().model_dump_json(by_alias=True)
        read_description(text, "the ranking")
        for name in (INFO_FILE, TENSORS_FILE):
            (folder / name).unlink(missing_ok=True)
        files.write_tensors(
            folder / LEVELS_FILE,
            self.by_level,
            {DESCRIPTION: text, CHECKSUM: checksum(text, self.by_level)},
        )
        files.write_tensors(folder / TENSORS_FILE, self.priorities)
        files.write_json(folder / INFO_FILE, self.info())
        return folder

    def info(self) -> dict[str, object]:
        """The content of `ranking.json`."""
        return self._described().model_dump(mode="json", by_alias=True)

    @property
    def _levels(self) -> int:
        return sum(len(each.levels) for each in self.distortions)

    def _described(self) -> Description:
        return Description.model_construct(
            schema_version=SCHEMA,
            method=self.method,
            distortions=tuple(
                LevelsOf.model_construct(
                    name=d.name, levels=d.levels, clip=d.clip, quantize=d.quantize
                )
                for d in self.distortions
            ),
            sites={site: values.shape[1] for site, values in self.by_level.items()},
            images=self.images,
            seconds=self.seconds,
            seed=self.seed,
            target=self.target,
            maps=self.maps,
            weights=self.weights,
            gains=self.gains,
            network=self.network,
        )


def load_ranking(folder: str | Path) -> Ranking:
    """Reads a ranking that `Ranking.save` wrote.

    Args:
        folder: the folder with `ranking_levels.safetensors`.

    Raises:
        InputError: the file is missing or damaged, was changed, or is not a ranking.

    Example:
        >>> import torch, deepcorrect as dc
        >>> model = dc.load_model("digits_cnn")
        >>> digits = [(torch.rand(2, 1, 28, 28), torch.tensor([3, 8]))]
        >>> folder = dc.rank(model, digits, "awgn:40", "change").save("my-ranking")
        >>> dc.load_ranking(folder).method
        'change'
    """
    path = Path(folder) / LEVELS_FILE
    if not path.is_file():
        raise InputError(f"{folder} holds no ranking: there is no file {path}")
    header, by_level = files.read_description(path), files.read_tensors(path)
    text, source = header.get(DESCRIPTION), str(path)
    if text is None:  # of schema 2, which had its description in a file of its own
        source = str(Path(folder) / INFO_FILE)
        text = json.dumps(files.read_json(Path(source)))
    found = read_description(text, source)
    if (found.schema_version == SCHEMA) != (DESCRIPTION in header):
        raise InputError(f"{path} is not a ranking: it has lost its description")
    if DESCRIPTION in header and header.get(CHECKSUM) != checksum(text, by_level):
        raise InputError(
            f"{path} was changed since it was saved (its checksum differs): copy it again, or rank "
            "again"
        )
    sizes = {site: values.shape[-1] if values.dim() else 0 for site, values in by_level.items()}
    for site, filters in found.sites.items():
        if sizes.get(site) != filters:
            raise InputError(f"{path} does not hold the {filters} filters of site {site!r}")
    if sizes.keys() != found.sites.keys():
        raise InputError(f"{path} holds a site that {source} does not describe")
    distortions = tuple(each.distortion() for each in found.distortions)
    ranking = Ranking(
        {site: by_level[site] for site in found.sites},
        found.method,
        distortions,
        found.images,
        found.seconds,
        found.seed,
        found.target,
        found.maps,
        found.network,
        found.gains,
        found.weights,
    )
    check_priorities(ranking.by_level, ranking._levels, str(path))
    return ranking


def count_for(beta: float, channels: int) -> int:
    """The number of filters that the share `beta` of `channels` filters is: rounded, at least one.

    Raises:
        InputError: beta is not above 0 and at most 1.
    """
    if isinstance(beta, bool) or not 0 < beta <= 1:
        raise InputError(f"beta={beta} is not a share of filters: it must be above 0 and at most 1")
    return max(1, round(beta * channels))
