"""What the page's controls do: from what is chosen to what is shown."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepcorrect.distortions import kind_of
from deepcorrect.explorer import _html
from deepcorrect.explorer._compare import Curve, compare, level_curve
from deepcorrect.explorer._exhibits import Exhibits
from deepcorrect.explorer._filters import site_maps
from deepcorrect.explorer._folder import compare_folder, unused_name
from deepcorrect.explorer._pictures import Picture, read_picture, shipped_pictures
from deepcorrect.explorer._runs import RunRow, run_rows, select_rows
from deepcorrect.explorer._setting import Setting
from deepcorrect.explorer._state import View, first_view, level_range, middle_level, view_of
from deepcorrect.explorer._subject import Subject
from deepcorrect.runtime import DeepCorrectError

Results = dict[str, Mapping[str, Any]]
"""The content of each uploaded `results.json`, by its run's name."""

LONGEST_NAME = 100
"""Characters of an uploaded run's name that are shown."""

NO_ADAPTER = "none"
CLEAN_ANSWER = "what the baseline says of the clean picture"
BY_ITSELF = -1
"""The number of `CLEAN_ANSWER` among the classes."""
KEPT = 64
"""Curves that are kept, so that the level moves without measuring all levels again."""


class Handlers:
    """The functions that fill the page's components. They hold nothing of a session.

    Args:
        exhibits: What the page offers.
        gr: Gradio.
    """

    def __init__(self, exhibits: Exhibits, gr: Any) -> None:
        self.exhibits, self.gr = exhibits, gr
        self._curve_of = functools.lru_cache(KEPT)(self._measured_curve)

    def restore(self, request: Any) -> list[Any]:
        """Sets the controls to what the address says."""
        view, notes = view_of(dict(request.query_params), self.exhibits)
        for note in notes:
            self.gr.Warning(note)
        return self._set(view)

    def choose_network(self, network: str, tab: str) -> list[Any]:
        """Sets the controls to what another network is first shown with."""
        view = first_view(self.exhibits, network)
        return self._set(replace(view, tab=tab))

    def _set(self, view: View) -> list[Any]:
        gr, subject = self.gr, self.exhibits.subject(view.network)
        low, high, step = level_range(view.setting.kinds, subject.model.preprocessing.input_size)
        return [
            gr.Dropdown(value=view.network),
            gr.Dropdown(self.adapters(view.network), value=view.adapter),
            gr.Dropdown(self.exhibits.pictures(view.network), value=view.picture),
            list(view.setting.kinds),
            gr.Slider(low, high, view.setting.level, step=step, label=unit_of(view.setting.kinds)),
            view.setting.quantize,
            view.setting.seed,
            gr.Dropdown(
                self.classes(view.network), value=BY_ITSELF if view.right is None else view.right
            ),
            gr.Dropdown(subject.sites(view.adapter), value=view.site),
            gr.Tabs(selected=view.tab),
            *self.open_tab(view.tab, view.query()),
            view.query(),
        ]

    def open_tab(self, tab: str, query: str) -> tuple[Any, Any]:
        """The open tab, and the choices beside it, which say nothing of runs.

        A browser opens the first tab before the address has been read; that is not meant.
        """
        if not query:
            return self.gr.skip(), self.gr.skip()
        return tab, self.gr.Column(visible=tab != "runs")

    def choose_adapter(self, network: str, adapter: str) -> Any:
        """Offers the adapter's sites."""
        sites = self.exhibits.subject(network).sites(adapter)
        return self.gr.Dropdown(sites, value=sites[0])

    def choose_kinds(self, network: str, kinds: list[str]) -> Any:
        """Sets the slider to the levels of the chosen kinds."""
        pixels = self.exhibits.subject(network).model.preprocessing.input_size
        low, high, step = level_range(tuple(kinds), pixels)
        return self.gr.Slider(
            low, high, middle_level(tuple(kinds), pixels), step=step, label=unit_of(tuple(kinds))
        )

    def take_upload(self, path: str | None) -> Picture | None:
        """Reads an uploaded file with the package's own decoder."""
        if path is None:
            return None
        file = Path(path)
        try:
            return read_picture(file.read_bytes(), file.name)
        except DeepCorrectError as error:
            raise self.gr.Error(str(error), print_exception=False) from None

    def show(self, *given: Any) -> tuple[Any, Any, Any]:
        """The comparison or the maps, whichever tab is open, and the view's query.

        Until the address has been read, there is no query, and what the controls say is not meant.
        """
        *choices, upload, site, count, tab, query = given
        compared = maps = nothing = self.gr.skip()
        if not query:
            return nothing, nothing, nothing
        try:
            view, picture, subject = self._view(choices, upload, site, tab)
            tensor = self.exhibits.tensor(picture, view.network)
            if tab == "filters":
                found = site_maps(
                    subject,
                    view.adapter,
                    tensor,
                    view.setting,
                    view.site,
                    ranking=self.exhibits.offer(view.network).ranking,
                    filters=int(count),
                )
                maps = _html.maps(found)
            elif tab == "picture":
                compared_with = compare(subject, view.adapter, tensor, view.setting, view.right)
                right = subject.label(compared_with.right)
                compared = _html.comparison(compared_with, view.setting, right)
            return compared, maps, view.query()
        except DeepCorrectError as error:
            problem = _html.message(str(error))
            picture_is_open = tab == "picture"
            return (problem, maps, nothing) if picture_is_open else (compared, problem, nothing)

    def show_curve(self, *given: Any) -> Any:
        """All levels of the distortion; computed where the picture's tab is open."""
        *choices, upload, site, _, tab, query = given
        if tab != "picture" or not query:
            return self.gr.skip()
        try:
            view, picture, subject = self._view(choices, upload, site, tab)
            clean = replace(view.setting, level=_weakest(view.setting.kinds))
            found = self._curve_of(picture, view.network, view.adapter, clean, view.right)
            right = view.right
            if right is None:
                tensor = self.exhibits.tensor(picture, view.network)
                right = int(subject.probabilities(tensor[None])[0].argmax())
            return _html.level_chart(found, view.setting, subject.label(right))
        except DeepCorrectError as error:
            return _html.message(str(error))

    def _measured_curve(
        self, picture: Picture, network: str, adapter: str, setting: Setting, right: int | None
    ) -> Curve | None:
        tensor = self.exhibits.tensor(picture, network)
        return level_curve(self.exhibits.subject(network), adapter, tensor, setting, right)

    def take_runs(self, paths: list[str] | None, sort: str) -> list[Any]:
        """Reads uploaded files of results, and shows their runs beside those that are offered.

        Args:
            paths: All files that are uploaded now; None or none after the last was removed.
            sort: The order of the rows.
        """
        assert self.exhibits.read_results is not None
        added: Results = {}
        for path in map(Path, paths or ()):
            try:
                found = self.exhibits.read_results(path)
            except DeepCorrectError as error:
                said = str(error).replace(str(path), path.name)
                raise self.gr.Error(said, print_exception=False) from None
            name = str(found.get("name") or path.stem)[:LONGEST_NAME]
            added[unused_name(name, {**self.exhibits.runs, **added})] = found
        gr, every = self.gr, self.rows(added)
        names = names_of(every)
        rows = select_rows(every, *names, sort)
        return [
            added,
            gr.HTML(visible=not every),
            gr.Row(visible=bool(every)),
            *(gr.CheckboxGroup(each, value=each) for each in names),
            gr.Dataframe(table_of(rows), visible=bool(every)),
            _html.run_charts(rows, every) if every else "",
        ]

    def show_runs(
        self,
        runs: list[str],
        systems: list[str],
        distortions: list[str],
        sort: str,
        added: Results,
    ) -> tuple[Any, str]:
        """The table and the charts of the chosen rows."""
        every = self.rows(added)
        rows = select_rows(every, runs, systems, distortions, sort)
        return table_of(rows), _html.run_charts(rows, every)

    def rows(self, added: Results) -> list[RunRow]:
        """The rows of the runs that are offered, and of uploaded ones."""
        return run_rows({**self.exhibits.runs, **added})

    def show_differences(self, *given: Any) -> str:
        """The images of a folder on which the two systems differ."""
        *choices, name, limit = given
        progress = self.gr.Progress()
        try:
            view, _, subject = self._view(choices, None, None, "folder")
            if not view.adapter:
                return _html.message("Choose an adapter to compare the baseline with.")
            folder, count = self.exhibits.folder(name), int(limit)
            found = compare_folder(
                subject,
                view.adapter,
                folder,
                view.setting,
                count,
                lambda done: progress((done, count), desc="comparing"),
            )
            return _html.differences(found, view.setting)
        except DeepCorrectError as error:
            return _html.message(str(error))

    # --- what the controls say

    def _view(
        self, choices: list[Any], upload: Picture | None, site: str | None, tab: str
    ) -> tuple[View, Picture, Subject]:
        network, adapter, picture, kinds, level, quantize, seed, right = choices
        subject = self.exhibits.subject(network)
        setting = Setting(tuple(kinds), float(level or 0), bool(quantize), int(seed or 0))
        number = None if right in (None, BY_ITSELF) else int(right)
        view = View(network, adapter or "", picture, setting, number, site or "", tab)
        shipped = shipped_pictures()
        chosen = upload or shipped.get(picture) or next(iter(shipped.values()))
        return view, chosen, subject

    def adapters(self, network: str) -> list[tuple[str, str]]:
        return [(NO_ADAPTER, ""), *((name, name) for name in self.exhibits.offer(network).adapters)]

    def classes(self, network: str) -> list[tuple[str, int]]:
        subject = self.exhibits.subject(network)
        return [(CLEAN_ANSWER, BY_ITSELF), *((subject.label(k), k) for k in range(subject.classes))]


def _weakest(kinds: tuple[str, ...]) -> float:
    """The level that changes nothing."""
    return kind_of("+".join(kinds)).weakest if kinds else 0.0


def unit_of(kinds: tuple[str, ...]) -> str:
    distortion = Setting(kinds, 0 if not kinds else 1).distortion
    return "Level" if distortion is None else f"Level: {distortion.kind.unit}"


def names_of(rows: Sequence[RunRow]) -> tuple[list[str], list[str], list[str]]:
    """The runs, the systems and the distortions of rows, each once."""
    named = zip(*((row.run, row.system, row.distortion) for row in rows), strict=True)
    runs, systems, distortions = (
        (list(dict.fromkeys(each)) for each in named) if rows else ([],) * 3
    )
    return runs, systems, distortions


def table_of(rows: list[RunRow]) -> list[list[Any]]:
    """The rows as the table shows them; accuracies in percent, costs as multiples."""
    return [
        [
            row.run,
            row.system,
            row.distortion,
            round(100 * row.mean, 1),
            round(100 * row.clean, 1),
            round(100 * min(row.top1), 1),
            row.parameters,
            None if row.work is None else round(row.work, 3),
            None if row.latency is None else round(row.latency, 3),
        ]
        for row in rows
    ]
