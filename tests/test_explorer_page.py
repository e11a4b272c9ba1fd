"""The explorer's page: it works by pointer and keyboard, and nothing else is reached through it.

The tests are skipped where Gradio, Playwright or Debian's Chromium is not installed.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from PIL import Image

import deepcorrect as dc
from deepcorrect.data import ImageSet
from deepcorrect.experiments.report import read_results
from deepcorrect.explorer import Exhibits, Offer, serve, shipped_pictures, write_space
from deepcorrect.networks import Classifier

pytest.importorskip("gradio", reason="needs the extra explore")
import httpx

RUN = Path(__file__).parent.parent / "benchmarks" / "results" / "demo"
CHROMIUM = shutil.which("chromium")
WAIT = 30_000  # milliseconds, for a busy machine
LIMIT = 1  # megabytes of an upload
FILE = {"meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}


@pytest.fixture(scope="module")
def folder(digits_test: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "digits"
    folder.mkdir()
    for number in range(20):
        sample = digits_test[number * 31]
        assert sample is not None
        pixels = (sample[0][0] * 255).round().byte().numpy()
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def address(
    digits_model: Classifier, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A page with two networks of digits, one of them with an adapter."""
    adapted = dc.correct(
        digits_model, {"features.0.0": [1, 5, 6]}, unit={"kind": "lite", "start": "he"}
    )
    adapter = adapted.save_pretrained(tmp_path_factory.mktemp("adapters") / "noise")
    offers = {
        "first": Offer(lambda: digits_model, {"noise": str(adapter)}),
        "second": Offer(lambda: digits_model),
    }
    exhibits = Exhibits(offers, {"demo": read_results(RUN)}, {"digits": folder}, read_results)
    blocks = serve(exhibits, upload_megabytes=LIMIT)
    yield blocks.local_url
    blocks.close(verbose=False)


# --- in the browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs Playwright for Python: pip install playwright"
    )
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=["--no-sandbox"]
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def window(browser: Any) -> Any:
    """One page of the browser, which keeps what it has loaded."""
    page = browser.new_page()
    page.set_default_timeout(WAIT)
    return page


@pytest.fixture
def visit(window: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the page; at the end, no error was written and no request left this machine."""
    complaints: list[str] = []

    def on_said(said: Any) -> None:
        if said.type == "error":
            complaints.append(said.text)

    def on_request(sent: Any) -> None:
        if not sent.url.startswith((address, "data:", "blob:")):
            complaints.append(sent.url)

    def on_error(error: Any) -> None:
        complaints.append(str(error))

    window.goto("about:blank")  # which ends what the page before was still waiting for
    listeners = {"console": on_said, "request": on_request, "pageerror": on_error}
    for event, listener in listeners.items():
        window.on(event, listener)

    def visited(query: str = "", width: int = 1280, theme: str = "light") -> Any:
        window.set_viewport_size({"width": width, "height": 900})
        window.emulate_media(color_scheme=theme)
        window.goto(address + query)
        return window

    yield visited
    for event, listener in listeners.items():
        window.remove_listener(event, listener)
    assert complaints == []


def picture(page: Any, name: str) -> str:
    """The data URL of the clean or the distorted picture."""
    shown = page.locator(f".dc-picture img[alt={name}]")
    shown.wait_for()
    return shown.get_attribute("src")


def chosen(page: Any) -> dict[str, str]:
    """What the address says."""
    return {name: each[0] for name, each in parse_qs(urlsplit(page.url).query).items()}


def changed(page: Any, name: str, before: str) -> str:
    """The picture when it is another one."""
    page.wait_for_function(
        "([name, before]) => {const shown = document.querySelector(`.dc-picture img[alt=${name}]`);"
        " return shown && shown.src !== before}",
        arg=[name, before],
    )
    return picture(page, name)


def test_the_slider_moves_by_keyboard_and_the_address_follows(visit: Callable[..., Any]) -> None:
    page = visit()
    clean, distorted = picture(page, "Clean"), picture(page, "Distorted")
    assert clean != distorted
    page.locator(".dc-chart circle").first.wait_for()
    assert page.locator(".dc-answer").count() == 2
    slider = page.locator("#level input[type=range]")
    before = float(slider.input_value())
    slider.focus()
    page.keyboard.press("ArrowRight")
    further = changed(page, "Distorted", distorted)
    assert picture(page, "Clean") == clean
    page.wait_for_function("() => location.search.includes('level=')")
    assert float(chosen(page)["level"]) > before
    page.keyboard.press("Home")
    changed(page, "Distorted", further)
    page.wait_for_function("() => location.search.includes('level=0&')")
    assert picture(page, "Distorted") == clean


def test_a_picture_is_uploaded_and_removed_again(visit: Callable[..., Any]) -> None:
    page = visit()
    before = picture(page, "Clean")
    page.locator(".dc-file input[type=file]").set_input_files(
        {"name": "mine.png", "mimeType": "image/png", "buffer": drawn()}
    )
    mine = changed(page, "Clean", before)
    page.locator(".dc-file [aria-label=Clear], .dc-file button[title=Clear]").first.click()
    assert changed(page, "Clean", mine) == before


def test_what_is_no_picture_is_refused_in_words(visit: Callable[..., Any]) -> None:
    page = visit()
    before = picture(page, "Clean")
    page.locator(".dc-file input[type=file]").set_input_files(
        {"name": "letter.png", "mimeType": "image/png", "buffer": b"%PDF-1.7 and more"}
    )
    page.get_by_text("letter.png cannot be read: it is a PDF document").first.wait_for()
    assert picture(page, "Clean") == before


def test_networks_and_distortions_are_switched(visit: Callable[..., Any]) -> None:
    page = visit("?network=first&adapter=noise&kinds=awgn&level=20")
    distorted = picture(page, "Distorted")
    kinds = page.get_by_label("Distortion")
    kinds.click()
    page.keyboard.type("fog")
    page.keyboard.press("Enter")
    changed(page, "Distorted", distorted)
    page.wait_for_function("() => location.search.includes('kinds=awgn%2Bfog')")
    network = page.get_by_label("Network")
    network.click()
    network.fill("second")
    page.keyboard.press("Enter")
    page.get_by_text("No adapter is chosen").wait_for()
    assert page.locator(".dc-answer").count() == 1
    page.wait_for_function("() => location.search.includes('network=second')")


def test_filters_are_enlarged_by_keyboard(visit: Callable[..., Any]) -> None:
    page = visit("?tab=filters&site=features.0.0")
    first = page.locator(".dc-maps details").first
    first.wait_for()
    assert page.locator(".dc-maps details").count() == 8
    shown = first.locator("img").first
    assert first.locator("img").count() == 4
    small = shown.bounding_box()["width"]
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert shown.bounding_box()["width"] > small


def test_runs_are_chosen_and_sorted(visit: Callable[..., Any]) -> None:
    page = visit("?tab=runs")
    page.get_by_text("Accuracy and cost").wait_for()
    assert page.locator(".dc-chart").count() == 2
    page.get_by_label("gaussian_blur").uncheck()
    page.wait_for_function("() => document.querySelectorAll('.dc-chart').length === 1")
    lines = page.locator(".dc-chart polyline").count()
    page.get_by_label("finetuned", exact=True).uncheck()
    page.wait_for_function(
        "(count) => document.querySelectorAll('.dc-chart polyline').length === count",
        arg=lines - 1,
    )


def test_a_results_file_is_uploaded_and_removed_again(visit: Callable[..., Any]) -> None:
    page = visit("?tab=runs")
    page.get_by_text("Accuracy and cost").wait_for()
    before = page.locator(".dc-chart polyline").count()
    found = json.loads((RUN / "results.json").read_text(encoding="utf-8"))
    content = json.dumps({**found, "name": "<b>mine"}).encode()
    page.locator(".dc-run-file input[type=file]").set_input_files(
        {"name": "results.json", "mimeType": "application/json", "buffer": content}
    )
    page.get_by_label("<b>mine", exact=True).wait_for()
    twice = "(count) => document.querySelectorAll('.dc-chart polyline').length === count"
    page.wait_for_function(twice, arg=2 * before)
    page.get_by_label("demo", exact=True).uncheck()
    page.wait_for_function(twice, arg=before)
    page.locator(".dc-run-file [aria-label=Clear], .dc-run-file button[title=Clear]").first.click()
    page.get_by_label("<b>mine", exact=True).wait_for(state="detached")
    page.wait_for_function(twice, arg=before)


def test_a_folder_is_compared(visit: Callable[..., Any]) -> None:
    page = visit("?tab=folder&kinds=awgn&level=30")
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("They differ on").wait_for()
    assert page.locator(".dc-card img").count() > 0
    assert page.locator(".dc-card code").first.inner_text().endswith(".png")


def test_an_address_that_does_not_fit_is_answered_with_a_notice(visit: Callable[..., Any]) -> None:
    page = visit("?network=/etc/passwd&level=9000")
    page.get_by_text("network '/etc/passwd' is not offered here").first.wait_for()
    picture(page, "Clean")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_every_tab_without_scrolling_sideways(
    theme: str, visit: Callable[..., Any]
) -> None:
    page = visit("", width=390, theme=theme)
    picture(page, "Distorted")
    for tab, there in (
        ("Filters", ".dc-maps"),
        ("Runs", ".dc-charts"),
        ("Folder", "text=Images at most"),
        ("Picture", ".dc-answer"),
    ):
        page.get_by_role("tab", name=tab).click()
        page.locator(there).first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab


# --- what can be reached


def drawn() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "PNG")
    return buffer.getvalue()


def test_it_listens_on_this_machine_alone(address: str) -> None:
    port = urlsplit(address).port
    places = {
        each.laddr.ip
        for each in psutil.Process().net_connections("inet")
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port
    }
    assert places == {"127.0.0.1"}


@pytest.mark.parametrize(
    "place",
    [
        "/file=/etc/passwd",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=%2Fetc%2Fpasswd",
        "/gradio_api/file=pyproject.toml",
        "/gradio_api/file={here}",
        "/gradio_api/file={folder}/00.png",
        "/gradio_api/file=http://example.org/",
        "/gradio_api/proxy=http://example.org/",
        "/static/../../../../../etc/passwd",
        "/assets/..%2f..%2f..%2f..%2fetc/passwd",
        "/monitoring",
        "/docs",
    ],
)
def test_no_path_of_the_machine_is_served(place: str, address: str, folder: Path) -> None:
    path = place.format(here=Path(__file__).resolve(), folder=folder)
    request = httpx.Request("GET", address)
    request.url = request.url.copy_with(raw_path=path.encode())  # as it stands
    with httpx.Client() as client:
        answer = client.send(request)
    assert answer.status_code in (400, 403, 404), answer.status_code
    assert "root:" not in answer.text


def test_the_page_names_no_path_of_the_machine(address: str, folder: Path) -> None:
    for place in ("", "config", "gradio_api/info"):
        text = httpx.get(address + place).text
        assert str(folder.parent) not in text
        assert str(Path(__file__).parent) not in text
        assert str(Path.home()) + "/" not in text


PICTURE_FIELD, RUN_FIELD = ("dc-file", "upload"), ("dc-run-file", "change")
"""The page's fields that take files, and the event of each."""


def handed_in(
    address: str, *values: Any, field: tuple[str, str] = PICTURE_FIELD
) -> tuple[int, dict[str, Any]]:
    """What the page answers to a file that a program, not a browser, names."""
    page, (kind, event) = httpx.get(f"{address}config").json(), field
    files = [each for each in page["components"] if each["type"] == "file"]
    (file,) = (each["id"] for each in files if kind in each["props"]["elem_classes"])
    (number,) = (each["id"] for each in page["dependencies"] if [file, event] in each["targets"])
    session = f"session-{time.monotonic_ns()}"
    sent = {"data": values, "fn_index": number, "session_hash": session, "trigger_id": file}
    joined = httpx.post(f"{address}gradio_api/queue/join", json=sent)
    if joined.status_code != 200:
        return joined.status_code, joined.json()
    place = f"{address}gradio_api/queue/data?session_hash={session}"
    with httpx.stream("GET", place, timeout=WAIT / 1000) as stream:
        for line in stream.iter_lines():
            said = json.loads(line.partition(":")[2]) if line.startswith("data:") else {}
            if said.get("msg") == "process_completed":
                return 200, said
    raise AssertionError("no answer")


def test_a_file_that_was_not_uploaded_is_not_read(address: str, folder: Path) -> None:
    for path in ("/etc/passwd", str(folder / "00.png")):
        status, said = handed_in(address, FILE | {"path": path})
        assert (status, said["success"]) == (200, False)
        assert path not in json.dumps(said)
    for path in ("https://example.org/a.png", "HTTP://example.org/a.png", "//example.org/a.png"):
        assert handed_in(address, FILE | {"path": path})[0] == 400
        assert handed_in(address, [{"inside": FILE | {"path": path}}])[0] == 400


def test_results_that_were_not_uploaded_are_not_read(address: str) -> None:
    for path in ("/etc/passwd", str(RUN / "results.json")):
        status, said = handed_in(address, [FILE | {"path": path}], None, field=RUN_FIELD)
        assert (status, said["success"]) == (200, False)
        assert path not in json.dumps(said)
    for path in ("https://example.org/results.json", "//example.org/results.json"):
        assert handed_in(address, [FILE | {"path": path}], None, field=RUN_FIELD)[0] == 400


def test_an_upload_is_read_if_it_is_a_picture_of_a_size_that_is_accepted(address: str) -> None:
    place = f"{address}gradio_api/upload"
    (path,) = httpx.post(place, files={"files": ("good.png", drawn())}).json()
    status, said = handed_in(address, FILE | {"path": path})
    assert (status, said["success"]) == (200, True)
    (path,) = httpx.post(place, files={"files": ("../../evil.png", b"%PDF-1.7")}).json()
    status, said = handed_in(address, FILE | {"path": path})
    assert said["output"]["error"] == "evil.png cannot be read: it is a PDF document"
    large = b"0" * (LIMIT * 2**20 + 1)
    assert httpx.post(place, files={"files": ("large.png", large)}).status_code == 413
    long = httpx.post(f"{address}gradio_api/queue/join", json={"data": ["0" * 2**21]})
    assert long.status_code == 413


# --- elsewhere


def test_a_space_starts_the_same_page(tmp_path: Path) -> None:
    space = write_space(tmp_path / "space", ["--model", "digits_cnn"], [], "1.0")
    port = 7900 + os.getpid() % 90
    settings = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    call = [sys.executable, str(space / "app.py")]
    with subprocess.Popen(
        call, env=os.environ | settings, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        try:
            assert said == f"explorer: http://127.0.0.1:{port}/\n"
            assert "DeepCorrect explorer" in httpx.get(f"http://127.0.0.1:{port}/").text
        finally:
            process.terminate()


def test_the_drawn_pictures_are_what_the_script_draws() -> None:
    import runpy

    script = runpy.run_path(str(RUN.parents[2] / "scripts" / "draw_pictures.py"))
    shipped = shipped_pictures()
    for number in script["STROKES"]:
        with shipped[f"digit {number}"].open() as image:
            assert image.tobytes() == script["digit"](number).tobytes()
    assert {each.__name__.replace("_", " ") for each in script["THINGS"]} < shipped.keys()
