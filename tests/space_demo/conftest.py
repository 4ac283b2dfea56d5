"""The page in a process of its own, Chromium, and a way to use the page as somebody would."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "outputs" / "screenshots"
AXE = ROOT / "outputs" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
SPACE_PACKAGES = ("space_demo", "modeling_lung_srad", "dataset_scripts")
CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGUMENTS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
MISSING_CHECKPOINT = "nobody/no-such-lung-model"
SECONDS_TO_START = 120
# Generous, since other tests may keep both processors busy.
TIMEOUT_MILLISECONDS = 60_000


class Space(NamedTuple):
    """A running page: its process, its address, the folder where it has its temporary files, and what it says."""

    process: subprocess.Popen
    address: str
    temporary: Path
    log: Path

    def kept_files(self):
        """Files of uploads and answers that lie on the disk; what others keep there is left out."""
        return [path for folder in self.temporary.glob("lung-srad-*") for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="session")
def space(tmp_path_factory):
    """The page in the layout of a Space, as `python app.py` serves it, without a network, until all tests are done."""
    pytest.importorskip("gradio", reason="needs gradio: pip install -e '.[demo]'")
    temporary, log = tmp_path_factory.mktemp("temporary"), tmp_path_factory.mktemp("log") / "space.txt"
    root = tmp_path_factory.mktemp("root")
    for package in SPACE_PACKAGES:
        # With the compiled scan, if it is there: compiling takes longer than all else.
        shutil.copytree(ROOT / package, root / package)
    shutil.copy(ROOT / "space_demo" / "app.py", root)
    port = free_port()
    environment = os.environ | {
        "TMPDIR": str(temporary),
        "GRADIO_SERVER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
        "LUNG_SRAD_CHECKPOINTS": MISSING_CHECKPOINT,
    }
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=root, env=environment, stdout=output, stderr=output)
    try:
        wait_until_ready(process, log)
        yield Space(process, f"http://127.0.0.1:{port}", temporary, log)
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="session")
def chromium():
    """Debian's Chromium with a microphone that beeps."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
    require(shutil.which(CHROMIUM), f"{CHROMIUM} is missing: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(space, chromium):
    """Opens the page in a browser that has not been there before."""
    contexts = []

    def open_page(**options):
        context = chromium.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        context.set_default_timeout(TIMEOUT_MILLISECONDS)
        contexts.append(context)
        page = context.new_page()
        page.goto(space.address)
        page.get_by_role("button", name="Classify").wait_for()
        return Visit(page)

    yield open_page
    for context in contexts:
        context.close()


class Visit:
    """A user of the page."""

    def __init__(self, page):
        self.page = page
        self.answer = page.locator("#answer")

    def choose(self, file):
        """Uploads a file (a path, or name, type and content) and waits until it is there."""
        with self.page.expect_response(lambda response: "/upload?" in response.url):
            self.page.set_input_files("#recording input[type=file]", file)
        self.page.locator("#recording .upload-container").wait_for(state="detached")

    def take_example(self, name):
        self.page.get_by_role("button", name=f"Simulated {name}").click()
        self.page.locator("#recording .upload-container").wait_for(state="detached")

    def ask(self, button="Classify", place="#answer"):
        """Presses a button and returns the text that then appears."""
        self.page.evaluate("place => document.querySelector(`${place} section`)?.setAttribute('data-old', '')", place)
        self.page.get_by_role("button", name=button).click()
        new = self.page.locator(f"{place} section:not([data-old], .lung-empty)")
        new.wait_for()
        return new.inner_text()

    def set_slider(self, name, value):
        """Types a number and leaves the field; again where gradio, on a busy machine, was not yet listening."""
        number, slider = (self.page.get_by_label(f"{kind} for {name}") for kind in ("number input", "range slider"))
        deadline = time.monotonic() + 30
        while slider.input_value() != value:
            assert time.monotonic() < deadline, f"{name} stays {slider.input_value()}"
            number.fill(value)
            self.page.keyboard.press("Tab")
            self.page.wait_for_timeout(200)

    def keep_screenshot(self, name):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


@pytest.fixture(scope="session")
def axe_source():
    """The source of axe-core, which `.ci/run` gets from npm."""
    require(AXE.is_file(), f"{AXE} is missing: npm install --no-save --prefix outputs/axe axe-core@4.14.1")
    return AXE.read_text(encoding="utf-8")


def require(found, problem):
    """Skips where something is missing; in CI, where it must be there, fails."""
    if not found and os.environ.get("CI") == "true":
        pytest.fail(problem)
    if not found:
        pytest.skip(problem)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(process, log):
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        if "Ready" in log.read_text():
            return
        time.sleep(0.1)
    pytest.fail(f"the page did not start: {log.read_text()}")


def breath(seconds, rate=8000, seed=0):
    """Noise that swells as breathing does, shape `(samples,)`."""
    time_axis = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(time_axis))
    return (0.1 * noise * (0.1 + np.sin(np.pi * time_axis / 3) ** 2)).astype(np.float32)


@pytest.fixture(scope="session")
def recording(tmp_path_factory):
    """20 s at 8 kHz, four windows; read only."""
    path = tmp_path_factory.mktemp("recordings") / "left lung.wav"
    soundfile.write(path, breath(20), 8000, subtype="PCM_16")
    return path
