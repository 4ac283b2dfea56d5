"""The static page in headless Chromium, as somebody uses it: nothing leaves it, and it works without a network."""

import contextlib
import csv
import functools
import http.server
import io
import re
import threading

import numpy as np
import pytest
import soundfile

from tests.space_demo.conftest import breath
from tests.space_demo.static.conftest import FINISHED, Visitor
from tests.space_demo.test_page import violations

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
EXAMPLE = "Simulated crackles"


def wav(waveform, rate=8000, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, **{"format": "WAV", "subtype": "PCM_16"} | options)
    return buffer.getvalue()


def file(name, content, kind="audio/wav"):
    return {"name": name, "mimeType": kind, "buffer": content}


@pytest.fixture
def other_visitor(chromium, address):
    """Opens the page for somebody who has not been there before, without waiting for the model."""
    contexts = []

    def enter(script="", **options):
        context = chromium.new_context(**options)
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(script)
        return Visitor(page, address)

    yield enter
    for context in contexts:
        context.close()


def test_example_is_answered_and_can_be_downloaded(visitor):
    visitor.page.get_by_role("button", name=EXAMPLE).click()
    visitor.answer.locator(".lung-player").wait_for()
    text = visitor.answer.inner_text()
    assert "simulated crackles.wav" in text
    assert "Recording of 30.0 s at 8 kHz." in text
    with visitor.page.expect_download() as download:
        visitor.answer.get_by_role("link", name="Download the windows as CSV").click()
    assert download.value.suggested_filename == "lung_sounds.csv"
    with open(download.value.path(), newline="", encoding="utf-8") as content:
        rows = list(csv.DictReader(content))
    assert list(rows[0]) == [
        "file", "start", "end", "label", "normal", "crackle", "wheeze", "both", "abstained", "flags",
    ]  # fmt: skip
    assert [(float(row["start"]), float(row["end"])) for row in rows] == [(x, x + 2) for x in range(29)]
    for row in rows:
        assert sum(float(row[name]) for name in ("normal", "crackle", "wheeze", "both")) == pytest.approx(1, abs=1e-5)


def test_example_chosen_before_the_model_is_there_is_answered_once(other_visitor):
    visitor = other_visitor(
        "self.states = []; new MutationObserver((changes) => self.states.push("
        "...changes.map(({ target }) => target.textContent))).observe(document, { childList: true, subtree: true });"
    )
    visitor.page.goto(visitor.address)
    visitor.page.get_by_role("button", name=EXAMPLE).click()
    visitor.answer.locator(".lung-player").wait_for()
    visitor.page.get_by_role("button", name="Simulated wheezes").click()
    visitor.page.wait_for_function(FINISHED, arg=2)
    assert visitor.page.evaluate("self.states").count("reading") == 2


def test_recording_is_played_from_where_the_plot_is_clicked_and_by_keys(visitor):
    visitor.choose(file("left lung.wav", wav(breath(20))))
    slider = visitor.answer.get_by_role("slider", name="Place in the recording")
    slider.wait_for()
    place = slider.bounding_box()
    slider.click(position={"x": (84 + place["width"] - 18) / 2, "y": place["height"] / 4})
    assert float(slider.get_attribute("aria-valuenow")) == pytest.approx(10, abs=0.8)
    visitor.page.wait_for_function("() => Number(document.querySelector('.lung-player').ariaValueNow) > 10.5")
    visitor.page.keyboard.press("Space")
    visitor.page.keyboard.press("Home")
    visitor.page.keyboard.press("ArrowRight")
    assert 0.9 < float(slider.get_attribute("aria-valuenow")) < 5
    visitor.page.keyboard.press("Space")
    for key, factor in (("+", 2), ("-", 1)):
        visitor.page.keyboard.press(key)
        assert slider.bounding_box()["width"] - 102 == pytest.approx(factor * (place["width"] - 102), abs=2)


def test_microphone_is_recorded_and_answered(visitor):
    visitor.page.get_by_role("button", name="Record", exact=True).click()
    visitor.page.get_by_role("button", name="Stop (1 s)").click()
    visitor.answer.get_by_text("Recording of 1.").wait_for()
    assert "microphone 1.wav" in visitor.answer.inner_text()


def test_microphone_that_is_denied_is_one_sentence(visitor):
    deny = "() => Promise.reject(new DOMException('no', 'NotAllowedError'))"
    visitor.page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = {deny}; }}")
    visitor.page.get_by_role("button", name="Record", exact=True).click()
    visitor.page.get_by_text("The microphone is not allowed; allow it in the settings of the browser.").wait_for()
    visitor.page.evaluate("() => { delete navigator.mediaDevices.getUserMedia; }")


WRONG_FILES = {
    "notes.wav": (lambda: b"these are notes and no audio", "is not audio that this browser can read"),
    "page.mp3": (lambda: b"<!doctype html><p>not found", "is not audio that this browser can read"),
    "breath.mp4": (lambda: b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(5000), "is not audio that this browser can"),
    "no sound.wav": (lambda: wav(np.zeros(8000))[:36], "has no audio among its chunks"),
    "long.flac": (lambda: wav(np.zeros(601 * 8000), format="FLAC"), "is longer than 10 minutes"),
    "night.wav": (lambda: wav(np.zeros(7200 * 2000), 2000), "is longer than 10 minutes"),
    "large.wav": (lambda: bytes(50_100_000), "is larger than 50 MB"),
}


def test_wrong_files_are_one_sentence_each_and_the_page_goes_on(visitor, tmp_path):
    paths = []
    for name, (content, _) in WRONG_FILES.items():
        (tmp_path / name).write_bytes(content())
        paths.append(tmp_path / name)
    for path, status in zip(paths, visitor.choose(*paths), strict=True):
        assert status.startswith(f"No answer: {WRONG_FILES[path.name][1]}"), path.name
    assert "notes.wav: is not audio that this browser can read." in visitor.answer.inner_text()
    assert "What helps: save it as wav" in visitor.answer.inner_text()
    (status,) = visitor.choose(file("good.wav", wav(breath(3))))
    assert not status.startswith("No answer: is")


def test_name_of_html_stays_text(visitor):
    name = "=\"'\n<img src=x onerror=alert(1)><script>alert(1)<script>.wav"
    visitor.page.on("dialog", lambda dialog: pytest.fail("a script in a file name was run"))
    visitor.choose(file(name, wav(breath(3))))
    shown = visitor.answer.locator(".lung-file")
    shown.wait_for()
    assert shown.inner_text() == "\"'<img src=x onerror=alert(1)><script>alert(1)<script>.wav"
    assert visitor.page.locator("main img, main script").count() == 0
    assert visitor.results()[shown.inner_text()]["duration"] == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_has_no_accessibility_violations(visitor, axe_source, scheme):
    visitor.page.emulate_media(color_scheme=scheme)
    visitor.page.evaluate(axe_source)
    visitor.page.locator("#privacy").evaluate("details => { details.open = true; }")
    visitor.choose(file("notes.wav", b"no audio"))
    assert violations(visitor.page) == []
    visitor.choose(file("left lung.wav", wav(breath(5))))
    visitor.answer.locator(".lung-player").wait_for()
    assert violations(visitor.page) == []
    visitor.page.emulate_media(color_scheme="light")


def test_long_recording_shows_its_progress_while_the_page_stays_usable(visitor):
    visitor.page.set_input_files("#files", [file("long.wav", wav(breath(60)))])
    visitor.page.get_by_text(re.compile(r"^\d+ of 59 windows$")).wait_for()
    visitor.answer.get_by_role("progressbar", name="Windows that are classified").wait_for()
    visitor.answer.get_by_text("Recording of 60.0 s").wait_for()


def test_page_fits_a_phone(visitor):
    visitor.choose(file("left lung.wav", wav(breath(32))))
    visitor.page.set_viewport_size({"width": 390, "height": 844})
    visitor.answer.locator(".lung-player").wait_for()
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    # The plot keeps a width at which its labels can be read, and scrolls. It gets it after the next frame.
    visitor.page.wait_for_function("document.querySelector('.lung-player').clientWidth >= 400")
    visitor.page.set_viewport_size({"width": 1280, "height": 900})


def test_page_is_usable_with_the_keyboard_alone(visitor):
    visitor.page.locator("#files").focus()
    reached = []
    for _ in range(12):
        reached.append(visitor.page.evaluate("document.activeElement.textContent || document.activeElement.id"))
        visitor.page.keyboard.press("Tab")
    assert reached[:5] == ["files", "Record", *(f"Simulated {x}" for x in ("normal breathing", "crackles", "wheezes"))]


@pytest.fixture
def plain_address(site):
    """The page on a host that adds no header of ours, as free ones do."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with serving(functools.partial(Quiet, directory=site)) as address:
        yield f"{address}/"


@contextlib.contextmanager
def serving(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def elsewhere():
    """A server of another origin, and the paths that it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.send_header("Cross-Origin-Resource-Policy", "cross-origin")
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    with serving(Handler) as address:
        yield address, asked


SEND = """async (address) => {
    const ways = [
        () => fetch(`${address}/fetch`, { method: "POST", body: "samples" }).then(() => "sent"),
        () => new Promise((resolve) => {
            const socket = new WebSocket(address.replace("http", "ws"));
            socket.onopen = () => resolve("sent");
            socket.onerror = () => resolve("refused");
        }),
        () => import(`${address}/module.js`).then(() => "sent"),
    ];
    const tried = ways.map((way) => Promise.resolve().then(way).catch(() => "refused"));
    return Promise.all(tried);
}"""


def test_nothing_can_be_sent_elsewhere_by_the_page_or_by_its_worker(other_visitor, plain_address, elsewhere):
    address, asked = elsewhere
    visitor = other_visitor()
    with visitor.page.expect_worker():
        visitor.page.goto(plain_address)
    for place in (visitor.page, *visitor.page.workers):
        assert place.evaluate(SEND, address) == ["refused", "refused", "refused"]
    assert asked == []
    visitor.page.get_by_text("Ready").wait_for()
    visitor.page.get_by_text("Why a recording cannot leave this device").click()
    visitor.page.get_by_text("The rule binds the page and the thread that computes").wait_for()


def test_thread_that_the_rule_does_not_bind_is_told(other_visitor, plain_address):
    visitor = other_visitor(service_workers="block")
    visitor.page.goto(plain_address)
    visitor.page.get_by_text("Ready.").wait_for()
    visitor.page.get_by_text("Why a recording cannot leave this device").click()
    visitor.page.get_by_text("but not the thread that computes").wait_for()


def test_page_shows_its_rule_and_has_asked_no_other_host(visitor):
    visitor.page.locator("#privacy").evaluate("details => { details.open = false; }")
    visitor.page.get_by_text("Why a recording cannot leave this device").click()
    visitor.page.get_by_text("and 0 from elsewhere").wait_for()
    assert "connect-src 'self'" in visitor.page.locator("#policy").inner_text()
    assert visitor.requested
    assert [url for url in visitor.requested if not url.startswith((visitor.address, "blob:"))] == []


def test_page_can_be_installed(visitor):
    session = visitor.page.context.new_cdp_session(visitor.page)
    assert session.send("Page.getAppManifest")["errors"] == []
    # Where there are several reasons, a private window, as tests have, is the only one that may be left.
    errors = {error["errorId"] for error in session.send("Page.getInstallabilityErrors")["installabilityErrors"]}
    assert errors <= {"in-incognito"}


def test_browser_without_webassembly_is_told(other_visitor):
    visitor = other_visitor("delete globalThis.WebAssembly;")
    visitor.page.goto(visitor.address)
    visitor.page.get_by_text("This browser does not run WebAssembly, which the model needs").wait_for()


def test_model_that_was_cut_off_is_told_and_loaded_again(other_visitor, site):
    visitor = other_visitor(service_workers="block")
    visitor.page.route("**/model.onnx", lambda route: route.fulfill(body=(site / "model.onnx").read_bytes()[:-1]))
    visitor.page.goto(visitor.address)
    visitor.page.get_by_text("The model could not be loaded (model.onnx was cut off after").wait_for()
    visitor.page.set_input_files("#files", [file("early.wav", wav(breath(3)))])
    visitor.page.unroute("**/model.onnx")
    visitor.page.get_by_role("button", name="Load the model again").click()
    visitor.answer.get_by_text("Recording of 3.0 s").wait_for()


def test_page_answers_without_a_network_after_the_first_visit(visitor):
    visitor.page.context.set_offline(True)
    visitor.page.reload()
    visitor.page.get_by_text("Ready, also without a network.").wait_for()
    visitor.page.get_by_role("button", name=EXAMPLE).click()
    visitor.answer.get_by_text("Recording of 30.0 s").wait_for()
    visitor.page.context.set_offline(False)
