"""The page in headless Chromium, as somebody uses it; a screenshot of each step is kept in outputs/screenshots."""

import csv
import io
import re

import numpy as np
import pytest
import soundfile

from tests.space_demo.conftest import MISSING_CHECKPOINT, breath

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
MAX_TABS = 60


@pytest.fixture(autouse=True)
def nothing_is_kept(space):
    """No test leaves an upload or a part of an answer on the disk of the server."""
    before = set(space.kept_files())
    yield
    assert set(space.kept_files()) - before == set()


def test_upload_is_answered_can_be_downloaded_and_fits_a_narrow_screen(visit, recording):
    visit = visit()
    visit.choose(recording)
    text = visit.ask()
    assert "left lung.wav" in text
    assert "Recording of 20.0 s at 8 kHz." in text
    assert visit.page.locator("#answer img").get_attribute("alt").startswith("Mel spectrogram")
    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name="Download the windows as CSV").click()
    assert download.value.suggested_filename == "lung_sounds.csv"
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:8] == ["file", "start", "end", "label", "normal", "crackle", "wheeze", "both"]
    assert [(float(row["start"]), float(row["end"])) for row in rows] == [(x, x + 4) for x in range(0, 17, 2)]
    for row in rows:
        assert row["file"] == "left lung.wav"
        assert sum(float(row[name]) for name in ("normal", "crackle", "wheeze", "both")) == pytest.approx(1, abs=1e-5)
    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name="Download the plot").click()
    assert download.value.suggested_filename == "lung_sounds.webp"
    visit.keep_screenshot("upload")
    visit.page.set_viewport_size({"width": 390, "height": 844})
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    # The plot keeps a width at which its labels can be read, and scrolls.
    assert visit.page.locator(".lung-player").bounding_box()["width"] >= 640
    visit.keep_screenshot("narrow")


def test_recording_is_asked_about_again_although_the_server_has_removed_it_until_it_is_cleared(visit, recording):
    visit = visit()
    visit.choose(recording)
    visit.ask()
    visit.page.get_by_role("button", name="Windows and confidence").click()
    for name, seconds in (("Window", "8"), ("Hop", "4")):
        visit.set_slider(name, seconds)
    visit.ask()
    assert visit.page.locator("#answer tbody tr").count() == 4
    visit.keep_screenshot("settings")
    visit.page.get_by_role("button", name="Clear").click()
    visit.page.get_by_text("Which sounds were found and when").wait_for()
    assert not visit.page.get_by_text("Window to explain").is_visible()


def test_microphone_is_recorded_and_answered(visit):
    visit = visit(permissions=["microphone"])
    visit.page.get_by_role("button", name="Record audio").click()
    visit.page.get_by_role("button", name="Record", exact=True).click()
    visit.page.wait_for_timeout(1500)
    visit.keep_screenshot("microphone_recording")
    with visit.page.expect_response("**/upload"):
        visit.page.locator("#recording .stop-button").click()
    visit.page.get_by_role("button", name="Play", exact=True).wait_for()
    assert "Recording of" in visit.ask()
    visit.keep_screenshot("microphone")


def test_example_is_answered_and_explained_and_no_other_host_is_asked(visit, space):
    visit = visit()
    addresses = []
    visit.page.on("requestfinished", lambda request: addresses.append(request.url))
    visit.page.reload()
    visit.page.get_by_role("button", name="Classify").wait_for()
    visit.take_example("wheezes")
    assert "simulated wheezes.wav" in visit.ask()
    visit.page.get_by_label("Window to explain").select_option(index=2)
    text = visit.ask("Show what made its class", "#explanation")
    assert re.match(r"What made \d+\.0–\d+\.0 s “\w+”", text)
    assert visit.page.locator("#explanation img").get_attribute("alt").startswith("Mel spectrogram")
    visit.keep_screenshot("example")
    assert addresses
    assert [address for address in addresses if not address.startswith((space.address, "blob:", "data:"))] == []


def test_model_that_cannot_be_fetched_is_said_and_the_next_request_is_answered(visit, recording):
    visit = visit()
    visit.page.get_by_role("radio", name=MISSING_CHECKPOINT).check()
    visit.choose(recording)
    text = visit.ask()
    assert f"{MISSING_CHECKPOINT}: neither a folder here nor a model that can be fetched" in text
    visit.keep_screenshot("error_model")
    visit.page.get_by_role("radio", name="embedded").check()
    assert "Recording of 20.0 s" in visit.ask()


def test_file_that_is_too_large_is_refused_before_it_is_sent(visit, tmp_path):
    file = tmp_path / "<b>large.wav"
    with file.open("wb") as content:
        content.truncate(50_100_000)
    visit = visit()
    sent = []
    visit.page.on("request", lambda request: sent.append(request.url))
    visit.page.set_input_files("#recording input[type=file]", file)
    visit.page.get_by_text("The file is larger than 50 MB").wait_for()
    assert not [address for address in sent if "/upload" in address]
    visit.keep_screenshot("error_large")


def wav(waveform, rate=8000, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, **{"format": "WAV", "subtype": "PCM_16"} | options)
    return buffer.getvalue()


WRONG_FILES = {
    "text": ("notes.wav", lambda: b"these are notes and no audio", "is not readable audio"),
    "video": ("breath.mp4", lambda: b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(5000), "is MPEG-4"),
    "zip": ("bomb.wav", lambda: b"PK\x03\x04" + bytes(100_000), "is a zip"),
    "two_hours": ("night.flac", lambda: wav(np.zeros(7200 * 2000), 2000, format="FLAC"), "is longer than 10 minutes"),
    "empty_microphone": ("audio.wav", lambda: wav(np.zeros(0)), "lasts 0.0 ms"),
    "not_a_number": ("nan.wav", lambda: wav(np.full(8000, np.nan), subtype="FLOAT"), "has NaN or infinite samples"),
    "silence": ("silent.wav", lambda: wav(np.zeros(8000)), "is silent"),
}


def test_nothing_and_wrong_files_are_said_to_be_wrong(visit, space):
    visit = visit()
    assert "recording: there is none yet" in visit.ask()
    visit.keep_screenshot("error_nothing")
    for case, (name, content, problem) in WRONG_FILES.items():
        visit.choose({"name": name, "mimeType": "audio/wav", "buffer": content()})
        text = visit.ask()
        assert "No answer" in text, case
        assert f"{name}: {problem}" in text
        assert str(space.temporary) not in text
        visit.keep_screenshot(f"error_{case}")
        visit.page.get_by_role("button", name="Clear").click()
        visit.page.locator("#recording .upload-container").wait_for()


def test_stereo_of_48_khz_with_a_name_of_html_is_answered_and_its_name_is_text(visit):
    visit = visit()
    waveform = np.stack([breath(3, 48000), breath(3, 48000, seed=1)], axis=1)
    name = "\"'\n<img src=x onerror=alert(1)><script>alert(1)<script>.wav"
    visit.page.on("dialog", lambda dialog: pytest.fail("a script in a file name was run"))
    visit.choose({"name": name, "mimeType": "audio/wav", "buffer": wav(waveform, 48000)})
    assert "Recording of 3.0 s at 48 kHz." in visit.ask()
    assert "img src=x" in visit.page.locator(".lung-file").inner_text()
    assert visit.page.locator("#answer img").count() == 1
    assert visit.page.locator("#answer script").count() == 0
    visit.keep_screenshot("name")


def test_page_is_usable_with_the_keyboard_alone(visit, recording):
    visit = visit()
    with visit.page.expect_file_chooser() as chooser:
        press_on(visit.page, "Click to Upload")
    chooser.value.set_files(recording)
    visit.page.locator("#recording .upload-container").wait_for(state="detached")
    press_on(visit.page, "Classify")
    visit.page.locator("#answer .lung-answer").wait_for()
    with visit.page.expect_download():
        press_on(visit.page, "Download the windows as CSV")
    press_on(visit.page, "Show what made its class")
    visit.page.locator("#explanation section").wait_for()
    visit.keep_screenshot("keyboard")


FOCUSED_NAME = """() => {
  const focused = document.activeElement;
  return focused.matches("a, button") ? focused.ariaLabel + focused.innerText : "";
}"""


def press_on(page, name):
    """Moves the focus by Tab to what has this name, and presses Enter."""
    for _ in range(MAX_TABS):
        page.keyboard.press("Tab")
        if name in page.evaluate(FOCUSED_NAME):
            page.keyboard.press("Enter")
            return
    pytest.fail(f"{name} is not reached by {MAX_TABS} times Tab")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_has_no_accessibility_violations(visit, axe_source, recording, scheme):
    visit = visit(color_scheme=scheme)
    visit.page.evaluate(axe_source)
    assert violations(visit.page) == []
    visit.keep_screenshot(f"start_{scheme}")
    visit.ask()
    assert violations(visit.page) == []
    visit.page.get_by_role("button", name="Windows and confidence").click()
    visit.choose(recording)
    visit.ask()
    assert violations(visit.page) == []
    visit.keep_screenshot(f"answer_{scheme}")


def violations(page):
    """Findings of axe-core on WCAG 2.1 A and AA and of its best practices: rule, impact, and the first element."""
    # Colours fade in.
    page.wait_for_timeout(500)
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
    found = page.evaluate("rules => axe.run({ runOnly: rules })", rules)
    assert "color-contrast" in {rule["id"] for rule in found["passes"]}
    return [(rule["id"], rule["impact"], rule["nodes"][0]["html"][:200]) for rule in found["violations"]]


def test_recording_is_played_from_where_the_plot_is_clicked(visit, recording):
    visit = visit()
    visit.choose(recording)
    visit.ask()
    player = visit.page.get_by_role("slider", name="Place in the recording")
    place = player.bounding_box()
    left, right = (float(player.get_attribute(f"data-{side}")) for side in ("left", "right"))
    player.click(position={"x": place["width"] * (left + right) / 2, "y": place["height"] / 4})
    assert float(player.get_attribute("aria-valuenow")) == pytest.approx(10, abs=0.8)
    visit.page.wait_for_function("Number(document.querySelector('.lung-player').ariaValueNow) > 10.5")
    visit.page.keyboard.press("Space")
    player.focus()
    visit.page.keyboard.press("Home")
    visit.page.keyboard.press("ArrowRight")
    assert 0.9 < float(player.get_attribute("aria-valuenow")) < 5
    visit.keep_screenshot("played")


def test_hop_follows_the_window_and_the_window_the_model(visit, recording):
    visit = visit()
    visit.choose(recording)
    visit.page.get_by_role("button", name="Windows and confidence").click()
    visit.set_slider("Window", "2")
    assert visit.page.get_by_label("range slider for Hop").input_value() == "1"
    assert visit.page.get_by_label("range slider for Window").get_attribute("max") == "8"
    visit.ask()
    assert visit.page.locator("#answer tbody tr").count() == 19
