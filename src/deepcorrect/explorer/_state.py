"""What is chosen on the page, as the query of its address, so that a view can be shared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from deepcorrect.distortions import KINDS, kind_of
from deepcorrect.explorer._exhibits import Exhibits
from deepcorrect.explorer._setting import Setting
from deepcorrect.runtime import InputError

TABS = ("picture", "filters", "runs", "folder")
MOST_KINDS = 3
LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class View:
    """What is chosen.

    Attributes:
        network: The name of the network.
        adapter: The name of the adapter; empty for none.
        picture: The name of a shipped picture.
        setting: The distortion.
        right: The class that counts as right; None for the baseline's answer for the clean picture.
        site: The site whose maps are shown.
        tab: One of `TABS`.
    """

    network: str
    adapter: str
    picture: str
    setting: Setting
    right: int | None
    site: str
    tab: str = "picture"

    def query(self) -> str:
        """The query of the address that shows this view."""
        return urlencode(
            {
                "network": self.network,
                "adapter": self.adapter,
                "picture": self.picture,
                "kinds": "+".join(self.setting.kinds),
                "level": f"{self.setting.level:g}",
                "bits": 8 if self.setting.quantize else 32,
                "seed": self.setting.seed,
                **({} if self.right is None else {"right": self.right}),
                "site": self.site,
                "tab": self.tab,
            }
        )


def first_view(exhibits: Exhibits, network: str | None = None) -> View:
    """What a network is first shown with: its first adapter, and Gaussian noise at a middle level.

    Args:
        exhibits: What the page offers.
        network: The network; None for the first one.
    """
    name = network or next(iter(exhibits.offers))
    subject = exhibits.subject(name)
    adapter = next(iter(subject.adapters), "")
    kinds = ("awgn",)
    pixels = subject.model.preprocessing.input_size
    return View(
        name,
        adapter,
        exhibits.pictures(name)[0],
        Setting(kinds, middle_level(kinds, pixels)),
        None,
        subject.sites(adapter)[0],
    )


def view_of(query: Mapping[str, str], exhibits: Exhibits) -> tuple[View, list[str]]:
    """The view that an address asks for.

    Args:
        query: The parameters of the address by name; all are optional.
        exhibits: What the page offers.

    Returns:
        The view, and a sentence for each parameter that does not fit and is left out.

    Example:
        >>> import deepcorrect as dc
        >>> from deepcorrect.explorer import Exhibits, Offer, view_of
        >>> exhibits = Exhibits({"digits": Offer(lambda: dc.load_model("digits_cnn"))})
        >>> view, notes = view_of({"kinds": "awgn", "level": "20", "site": "nowhere"}, exhibits)
        >>> view.setting.text, notes
        ('awgn:20', ["site 'nowhere' is not offered here"])
    """
    notes: list[str] = []

    def known(name: str, accepted: Any, default: str) -> str:
        given = query.get(name, default)
        if given in accepted:
            return given
        notes.append(f"{name} {given!r} is not offered here")
        return default

    network = known("network", exhibits.offers, next(iter(exhibits.offers)))
    view = first_view(exhibits, network)
    subject = exhibits.subject(network)
    adapter = known("adapter", ("", *subject.adapters), view.adapter)
    pixels = subject.model.preprocessing.input_size
    sites = subject.sites(adapter)
    view = replace(
        view,
        adapter=adapter,
        picture=known("picture", exhibits.pictures(network), view.picture),
        site=known("site", sites, view.site if view.site in sites else sites[0]),
        tab=known("tab", TABS, view.tab),
    )
    try:
        setting = _setting(query, view.setting, pixels)
        right = int(query["right"]) if query.get("right") else None
        if right is not None and not 0 <= right < subject.classes:
            raise InputError(f"class {right} is not one of the network's")
    except (InputError, ValueError) as error:
        notes.append(str(error))
    else:
        view = replace(view, setting=setting, right=right)
    return view, notes


def _setting(query: Mapping[str, str], default: Setting, pixels: int) -> Setting:
    if "kinds" not in query:
        kinds = default.kinds
    else:
        kinds = tuple(kind for kind in query["kinds"].replace(" ", "+").split("+") if kind)
    if len(kinds) > MOST_KINDS:
        raise InputError(f"{len(kinds)} kinds of distortion are named, and {MOST_KINDS} are shown")
    level = float(query["level"]) if "level" in query else middle_level(kinds, pixels)
    low, high, _ = level_range(kinds, pixels)
    if not low <= level <= high:
        raise InputError(f"level {level:g} is not from {low:g} to {high:g}")
    seed = int(query.get("seed", default.seed))
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed {seed} is not from 0 to {LARGEST_SEED}")
    return Setting(kinds, level, query.get("bits", "8") == "8", seed)


def level_range(kinds: tuple[str, ...], pixels: int) -> tuple[float, float, float]:
    """The lowest and the highest level on the page, and the step between levels.

    The highest is the largest of the grid for inputs of `pixels`.

    Example:
        >>> from deepcorrect.explorer import level_range
        >>> level_range(("gaussian_blur",), 224), level_range(("fog",), 224)
        ((0.0, 6.0, 0.1), (0.0, 5.0, 1.0))
    """
    if not kinds:
        return 0.0, 1.0, 1.0
    kind = kind_of("+".join(kinds))
    high = max(Setting(kinds, kind.weakest).levels(pixels))
    if kind.severities is not None:
        return kind.weakest, high, 1.0
    span = high - kind.weakest
    step = next(each for each in (0.01, 0.05, 0.1, 0.5, 1.0) if span / each <= 100 or each == 1.0)
    return kind.weakest, high, step


def middle_level(kinds: tuple[str, ...], pixels: int) -> float:
    """The level in the middle of the grid; 0 without a kind."""
    if not kinds:
        return 0.0
    levels = Setting(kinds, kind_of("+".join(kinds)).weakest).levels(pixels)
    return levels[len(levels) // 2]


def kind_names() -> list[str]:
    """The kinds that can be chosen, in alphabetical order, the paper's first."""
    return sorted(KINDS, key=lambda name: (name not in ("gaussian_blur", "awgn"), name))
