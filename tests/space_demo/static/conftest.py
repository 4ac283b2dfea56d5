"""The static page, built once and served as `lung-srad demo --static` does, and a visitor of it in Chromium."""

import base64
import json
import shutil
import threading
from pathlib import Path

import pytest

from modeling_lung_srad.errors import InputError
from space_demo.static.build import build_site
from space_demo.static.runtime import PACKAGE
from space_demo.static.server import make_server
from tests.space_demo.conftest import TIMEOUT_MILLISECONDS, require

ROOT = Path(__file__).resolve().parents[3]
SITE = ROOT / "outputs" / "static"
# Each recording that has an answer, or an error.
FINISHED = """count => [...document.querySelectorAll("#recordings li > span")]
    .filter(status => /^(The model|No answer)/.test(status.textContent)).length >= count"""
RUN = """async ([argument, samples]) => {
    const bytes = Uint8Array.from(atob(samples), (sign) => sign.charCodeAt(0));
    return JSON.stringify(await (CODE)({ ...JSON.parse(argument), waveform: new Float32Array(bytes.buffer) }));
}"""


@pytest.fixture(scope="session")
def site():
    """The folder of the page. An earlier build is used again where nothing changed."""
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install -e '.[export]'")
    is_there = (SITE.parent / PACKAGE).is_dir() or shutil.which("npm")
    require(is_there, f"{PACKAGE} is missing: install npm, then make static")
    try:
        return build_site(SITE)
    except InputError as error:
        require(error.name != PACKAGE, str(error))
        raise


@pytest.fixture(scope="session")
def address(site):
    """The page's address on this machine."""
    server = make_server(site, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def visitor(chromium, address):
    """One visitor, whose page has loaded the model and stays open for all tests: loading it takes the longest."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, permissions=["microphone"])
    context.set_default_timeout(TIMEOUT_MILLISECONDS)
    requested = []
    context.on("request", lambda request: requested.append(request.url))
    visitor = Visitor(context.new_page(), address, requested)
    visitor.open()
    yield visitor
    context.close()


class Visitor:
    """Somebody who uses the page; `requested` has the addresses that it asked for."""

    def __init__(self, page, address, requested=()):
        self.page = page
        self.address = address
        self.requested = requested
        self.answer = page.locator("#answer")

    def open(self):
        self.page.goto(self.address)
        self.page.get_by_text("Ready").wait_for()

    def choose(self, *files):
        """Chooses files (paths, or name, type and content), waits until all are answered, and returns the text that
        the list has for each."""
        before = self.page.locator("#recordings li").count()
        self.page.set_input_files("#files", list(files))
        self.page.wait_for_function(FINISHED, arg=before + len(files))
        return self.page.locator("#recordings li > span").all_inner_texts()[before:]

    def results(self):
        """The JSON of all answers so far, by the name of the file."""
        with self.page.expect_download() as download:
            self.page.get_by_role("link", name="All: answer as JSON").click()
        return {result["file"]: result for result in json.loads(Path(download.value.path()).read_text("utf-8"))}

    def run_module(self, code, argument, waveform):
        """Calls a function, which may import the modules of the page, with an object to which a waveform is added.

        As text, since a list of samples takes seconds on its way to the browser and back.
        """
        samples = base64.b64encode(waveform.tobytes()).decode()
        return json.loads(self.page.evaluate(RUN.replace("CODE", code), [json.dumps(argument), samples]))
