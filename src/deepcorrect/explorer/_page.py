"""The page: what is chosen is read from its controls, and what is computed is shown beside them.

An uploaded picture stays in the memory of its browser's session.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from deepcorrect.explorer import _html
from deepcorrect.explorer._exhibits import Exhibits
from deepcorrect.explorer._handlers import BY_ITSELF, Handlers, names_of, table_of, unit_of
from deepcorrect.explorer._runs import SORTS, select_rows
from deepcorrect.explorer._state import (
    LARGEST_SEED,
    MOST_KINDS,
    TABS,
    View,
    first_view,
    kind_names,
    level_range,
)
from deepcorrect.runtime import optional_import

HOUR = 3600
REPLACE_QUERY = "(query) => { if (query) window.history.replaceState(null, '', '?' + query); }"
HEADERS = [
    *("run", "system", "distortion", "mean %", "clean %", "worst level %"),
    *("parameters", "multiply-adds", "latency"),
]


def build(exhibits: Exhibits) -> Any:
    """The page as Gradio's `Blocks`, which `serve` starts.

    Raises:
        MissingExtraError: Gradio is not installed.
    """
    return _Page(exhibits).blocks


class _Page:
    """The components of the page, and the functions that fill them."""

    def __init__(self, exhibits: Exhibits) -> None:
        self.gr = gr = optional_import("gradio", "explore")
        self.exhibits = exhibits
        self.do = Handlers(exhibits, gr)
        with gr.Blocks(
            title="DeepCorrect explorer",
            analytics_enabled=False,
            fill_width=True,
            delete_cache=(HOUR, HOUR),
        ) as self.blocks:
            gr.HTML(
                '<header class="dc-head"><h1>DeepCorrect explorer</h1><p>Distort a picture, and '
                "see what a network says of it with and without its correction.</p></header>"
            )
            # empty until the address has been read
            self.query = gr.Textbox("", container=False, elem_classes="dc-hidden")
            with gr.Row(elem_classes="dc-page"):
                with gr.Column(scale=1, min_width=300, elem_classes="dc-controls") as self.side:
                    self._controls(first_view(exhibits))
                with gr.Column(scale=3, min_width=320, elem_classes="dc-results"):
                    self._results()
            self._connect()

    # --- components

    def _controls(self, view: View) -> None:
        gr, exhibits = self.gr, self.exhibits
        subject = exhibits.subject(view.network)
        low, high, step = level_range(view.setting.kinds, subject.model.preprocessing.input_size)
        self.upload = gr.State(None)
        self.tab = gr.State(view.tab)
        with gr.Row():
            self.network = gr.Dropdown(
                list(exhibits.offers), value=view.network, label="Network", min_width=200
            )
            self.adapter = gr.Dropdown(
                self.do.adapters(view.network), value=view.adapter, label="Adapter", min_width=200
            )
        self.picture = gr.Dropdown(
            exhibits.pictures(view.network), value=view.picture, label="Picture"
        )
        self.file = gr.File(
            label="Or drop a picture here", file_types=["image"], height=140, elem_classes="dc-file"
        )
        self.kinds = gr.Dropdown(
            kind_names(),
            value=list(view.setting.kinds),
            multiselect=True,
            max_choices=MOST_KINDS,
            label="Distortion (several act one after the other)",
        )
        self.level = gr.Slider(
            low,
            high,
            view.setting.level,
            step=step,
            label=unit_of(view.setting.kinds),
            buttons=[],
            elem_id="level",
        )
        with gr.Accordion("More", open=False):
            self.quantize = gr.Checkbox(
                view.setting.quantize, label="Round to 8 bits, as a stored picture"
            )
            self.seed = gr.Number(
                view.setting.seed,
                label="Seed of the noise",
                precision=0,
                minimum=0,
                maximum=LARGEST_SEED,
            )
            self.right = gr.Dropdown(
                self.do.classes(view.network),
                value=BY_ITSELF,
                label="Right answer",
                filterable=True,
            )
        self.choices = [
            *(self.network, self.adapter, self.picture, self.kinds, self.level, self.quantize),
            *(self.seed, self.right),
        ]

    def _results(self) -> None:
        gr, exhibits = self.gr, self.exhibits
        view = first_view(exhibits)
        with gr.Tabs(selected=view.tab) as self.tabs:
            with gr.Tab("Picture", id="picture") as picture:
                self.compared = gr.HTML()
                self.curve = gr.HTML()
            with gr.Tab("Filters", id="filters") as filters:
                with gr.Row():
                    sites = exhibits.subject(view.network).sites(view.adapter)
                    self.site = gr.Dropdown(sites, value=view.site, label="Site", min_width=200)
                    self.count = gr.Slider(
                        4, 32, 8, step=4, label="Filters to show", buttons=[], min_width=200
                    )
                self.maps = gr.HTML()
            with gr.Tab("Runs", id="runs") as runs:
                self._run_controls()
            with gr.Tab("Folder", id="folder") as folder:
                self._folder_controls()
        self.tab_items = dict(zip(TABS, (picture, filters, runs, folder), strict=True))

    def _run_controls(self) -> None:
        gr, every = self.gr, self.do.rows({})
        names = names_of(every)
        no_run = (
            "No run is shown. Drop its results.json here, or start the explorer with --run DIR."
        )
        self.no_run = gr.HTML(_html.message(no_run), visible=not every)
        self.added = gr.State({})
        with gr.Row(visible=bool(every)) as self.run_row:
            self.runs, self.systems, self.distortions = (
                gr.CheckboxGroup(each, value=each, label=label, min_width=220)
                for label, each in zip(("Runs", "Systems", "Distortions"), names, strict=True)
            )
            self.sort = gr.Dropdown(list(SORTS), value=next(iter(SORTS)), label="Sort by")
        rows = select_rows(every, *names)
        self.table = gr.Dataframe(
            table_of(rows),
            headers=HEADERS,
            datatype=["str"] * 3 + ["number"] * 6,
            interactive=False,
            show_search="none",
            visible=bool(every),
            label="Accuracy and cost",
        )
        self.charts = gr.HTML(_html.run_charts(rows, every) if every else "")
        self.run_files = gr.File(
            label="Or drop the results.json of other runs here",
            file_types=[".json"],
            file_count="multiple",
            height=140,
            elem_classes="dc-run-file",
            visible=self.exhibits.read_results is not None,
        )

    def _folder_controls(self) -> None:
        gr, names = self.gr, list(self.exhibits.folders)
        if not names:
            gr.HTML(_html.message("No folder is offered. Start the explorer with --images DIR."))
        with gr.Row(visible=bool(names)):
            first = names[0] if names else None
            self.folder = gr.Dropdown(names, value=first, label="Folder")
            self.limit = gr.Slider(10, 500, 100, step=10, label="Images at most", buttons=[])
            self.start = gr.Button("Compare", variant="primary")
        self.differences = gr.HTML()

    # --- what happens when

    def _connect(self) -> None:
        gr = self.gr
        shown = [self.compared, self.maps, self.query]
        given = [*self.choices, self.upload, self.site, self.count, self.tab, self.query]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}

        def refreshed(event: Any) -> None:
            event.then(self.do.show, given, shown, trigger_mode="always_last", **private).then(
                self.do.show_curve, given, self.curve, trigger_mode="always_last", **private
            )

        quick = [self.level.input, self.quantize.input, self.seed.input, self.right.input]
        event = gr.on(quick, self.do.show, given, shown, trigger_mode="always_last", **private)
        event.then(self.do.show_curve, given, self.curve, trigger_mode="always_last", **private)
        for each in (self.site, self.count):
            each.input(self.do.show, given, shown, trigger_mode="always_last", **private)
        controls = [*self.choices, self.site, self.tabs, self.tab, self.side, self.query]
        refreshed(
            self.network.input(
                self.do.choose_network, [self.network, self.tab], controls, **private
            )
        )
        refreshed(
            self.adapter.input(
                self.do.choose_adapter, [self.network, self.adapter], self.site, **private
            )
        )
        refreshed(
            self.kinds.input(
                self.do.choose_kinds, [self.network, self.kinds], self.level, **private
            )
        )
        refreshed(
            self.picture.input(lambda: (None, None), None, [self.file, self.upload], **private)
        )
        refreshed(self.file.upload(self.do.take_upload, self.file, self.upload, **private))
        refreshed(self.file.clear(lambda: None, None, self.upload, **private))
        refreshed(self.blocks.load(_with_request(self.do.restore, gr), None, controls, **private))
        for name, item in self.tab_items.items():
            open_tab = partial(self.do.open_tab, name)
            refreshed(item.select(open_tab, self.query, [self.tab, self.side], **private))
        self.query.change(None, self.query, None, js=REPLACE_QUERY, api_visibility="private")
        self._connect_runs(private)
        self.start.click(
            self.do.show_differences,
            [*self.choices, self.folder, self.limit],
            self.differences,
            api_visibility="private",
        )

    def _connect_runs(self, private: dict[str, Any]) -> None:
        chosen = [self.runs, self.systems, self.distortions, self.sort]
        self.gr.on(
            [each.input for each in chosen],
            self.do.show_runs,
            [*chosen, self.added],
            [self.table, self.charts],
            **private,
        )
        self.run_files.change(
            self.do.take_runs,
            [self.run_files, self.sort],
            [self.added, self.no_run, self.run_row, *chosen[:3], self.table, self.charts],
            **private,
        )


def _with_request(handler: Callable[[Any], Any], gr: Any) -> Callable[..., Any]:
    """The handler, so annotated that Gradio passes it the browser's request."""

    def called(request: Any) -> Any:
        return handler(request)

    called.__annotations__ = {"request": gr.Request}
    return called
