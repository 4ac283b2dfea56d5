"""The static page in Chromium beside the Python pipeline: largest differences, seconds, bytes and memory.

python -m benchmarks.browser RECORDING_OR_FOLDER... [--files N]
"""

import functools
import json
import re
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from benchmarks.command import build_parser
from dataset_scripts.simulated import simulate_recording
from modeling_lung_srad import load_pipeline
from modeling_lung_srad.audio import read_source, resample
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.timeline import RecordingResult
from space_demo.static.build import build_site, site_files
from space_demo.static.server import make_server

CHROMIUM = "/usr/bin/chromium"
TIMEOUT_MILLISECONDS = 1_200_000
TIMED_SECONDS, TIMED_FILES = 30, 10
SHORT_SECONDS, MANY_FILES = 6, 100
SIMULATED_RATE = 8000
FINISHED = """count => [...document.querySelectorAll("#recordings li > span")]
    .filter(status => /^(The model|No answer)/.test(status.textContent)).length >= count"""
PCM_RATES = (4000, 8000, 44100)


class Case(NamedTuple):
    """A file for both programs, and the row of the table that it belongs to."""

    kind: str
    path: Path


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = build_parser("browser", __doc__)
    parser.add_argument(
        "recordings", nargs="+", type=Path, metavar="PATH", help="audio files, or folders of wav files"
    )
    parser.add_argument("--files", type=int, default=10, metavar="N", help="of each format (default: 10)")
    options = parser.parse_args(argv)
    found = [
        file for path in options.recordings for file in (sorted(path.rglob("*.wav")) if path.is_dir() else [path])
    ]
    if options.files < 1 or len(found) < options.files:
        parser.error(f"--files {options.files}, and {len(found)} recordings were found")
    chosen = [found[round(place)] for place in np.linspace(0, len(found) - 1, options.files)]
    with tempfile.TemporaryDirectory() as folder:
        measure(list(make_cases(chosen, Path(folder))), Path(folder))


def measure(cases: list[Case], folder: Path) -> None:
    """Prints all figures."""
    with opened_page() as (page, sent):
        seconds, processor_seconds = [], []
        for seed in range(TIMED_FILES):
            path = _write_simulated(folder / f"timed {seed}.wav", seed, TIMED_SECONDS)
            start, processor_start = time.perf_counter(), _processor_seconds(page)
            answer_files(page, [path])
            seconds.append(time.perf_counter() - start)
            processor_seconds.append(_processor_seconds(page) - processor_start)
        print(
            f"{TIMED_SECONDS} s answered in {statistics.median(seconds):.2f} s (median of {TIMED_FILES}), at most "
            f"{max(seconds):.2f} s; time of a processor {statistics.median(processor_seconds):.2f} s",
            flush=True,
        )
        short = _write_simulated(folder / "short.wav", 0, SHORT_SECONDS)
        answer_files(page, [short] * MANY_FILES)
        print(f"memory of the page after {MANY_FILES} more files: {_megabytes(page):.0f} MB", flush=True)
        answer_files(page, [case.path for case in cases])
        print_differences(cases, read_answers(page))
        print(f"sent by the server in all: {sum(sent) / 1e6:.1f} MB, and {_foreign(page)} requests to other hosts")


@contextmanager
def opened_page() -> Iterator[tuple[Any, list[int]]]:
    """The page with its model loaded, and a list that grows by the bytes that are sent."""
    from playwright.sync_api import sync_playwright

    folder = build_site()
    print(f"page of {len(site_files(folder))} files", flush=True)
    server = make_server(folder, "127.0.0.1", 0)
    sent: list[int] = []
    server.get_request = _counted(server.get_request, sent)  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT_MILLISECONDS)
        start = time.perf_counter()
        page.goto(f"http://127.0.0.1:{server.server_port}/", wait_until="commit")
        page.get_by_role("heading", level=1).wait_for()
        print(f"first page after {time.perf_counter() - start:.2f} s")
        page.get_by_text("Ready").wait_for()
        print(f"model ready after {time.perf_counter() - start:.2f} s")
        yield page, sent
        browser.close()
    server.shutdown()


def answer_files(page: Any, paths: Sequence[Path]) -> None:
    """Gives files to the page and waits until all have an answer, or an error."""
    before = page.locator("#recordings li").count()
    page.set_input_files("#files", list(paths))
    page.wait_for_function(FINISHED, arg=before + len(paths))


def read_answers(page: Any) -> dict[str, RecordingResult]:
    """The answers of the page so far, by the name of the file."""
    with page.expect_download() as download:
        page.get_by_role("link", name="All: answer as JSON").click()
    return {answer["file"]: answer for answer in json.loads(Path(download.value.path()).read_text(encoding="utf-8"))}


def print_differences(cases: Sequence[Case], answers: dict[str, RecordingResult]) -> None:
    """A line a format: files, windows that both programs have, windows that one of them has alone at the end, largest
    difference of a probability, other labels and files with other quality flags."""
    lung_sounds = load_pipeline()
    rows: dict[str, list[tuple[int, int, float, int, int]]] = {}
    for kind, path in tqdm(cases, desc="python", leave=False):
        expected, found = lung_sounds(str(path)), answers.get(path.name)
        if found is None:
            print(f"{path.name}: no answer in the browser")
            continue
        starts = {round(segment["start"], 3): segment for segment in expected["timeline"]}
        pairs = [(mine, starts[start]) for mine in found["timeline"] if (start := round(mine["start"], 3)) in starts]
        alone = len(found["timeline"]) + len(expected["timeline"]) - 2 * len(pairs)
        difference = max(
            abs(mine["probabilities"][name] - other["probabilities"][name])
            for mine, other in pairs
            for name in CLASS_NAMES
        )
        labels = sum(mine["label"] != other["label"] for mine, other in pairs)
        flags = [flag["message"] for flag in found["quality"]] != [flag["message"] for flag in expected["quality"]]
        rows.setdefault(kind, []).append((len(pairs), alone, difference, labels, int(flags)))
    print(f"{'format':<22}{'files':>6}{'windows':>9}{'alone':>7}{'difference':>12}{'labels':>8}{'flags':>7}")
    for kind, figures in rows.items():
        windows, alone_of, differences, labels_of, flags_of = zip(*figures, strict=True)
        print(
            f"{kind:<22}{len(figures):>6}{sum(windows):>9}{sum(alone_of):>7}{max(differences):>12.1e}"
            f"{sum(labels_of):>8}{sum(flags_of):>7}"
        )


def make_cases(recordings: Sequence[Path], folder: Path) -> Iterator[Case]:
    """Each recording as it is, as wav of other rates, and in formats that the browser decodes."""
    for number, recording in enumerate(recordings):
        source = read_source(recording)

        def write(kind: str, name: str, rate: int, encode: Callable, number=number, source=source) -> Case:
            path = folder / f"{number} {name}"
            encode(path, resample(source.waveform, source.sampling_rate, rate), rate)
            return Case(f"{kind}, {rate / 1000:g} kHz", path)

        for rate in dict.fromkeys((source.sampling_rate, *PCM_RATES)):
            yield write("wav", f"{rate}.wav", rate, _write_wav)
        yield write("flac", "a.flac", source.sampling_rate, soundfile.write)
        yield write("ogg (vorbis)", "a.ogg", 44100, soundfile.write)
        yield write("mp3", "a.mp3", 44100, soundfile.write)
        yield write("m4a (aac)", "a.m4a", 44100, functools.partial(_write_by_ffmpeg, codec="aac"))
        yield write("webm (opus)", "a.webm", 48000, functools.partial(_write_by_ffmpeg, codec="libopus"))


def _write_wav(path: Path, waveform: np.ndarray, rate: int) -> None:
    soundfile.write(path, waveform, rate, subtype="PCM_16")


def _write_by_ffmpeg(path: Path, waveform: np.ndarray, rate: int, codec: str) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, bit_rate=128_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        kind = stream.codec_context.format.name
        resampler = av.AudioResampler(kind, "mono", rate, frame_size=stream.codec_context.frame_size)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(part))


def _write_simulated(path: Path, seed: int, seconds: int) -> Path:
    generator = np.random.default_rng(seed)
    labels = generator.integers(len(CLASS_NAMES), size=seconds).tolist()
    waveform = simulate_recording(labels, SIMULATED_RATE, generator)[0]
    _write_wav(path, waveform[: seconds * SIMULATED_RATE], SIMULATED_RATE)
    return path


def _counted(get_request: Callable, sent: list[int]) -> Callable:
    """Accepts connections as before, and keeps the number of bytes of each that is sent through them."""

    class CountingSocket(socket.socket):
        def sendall(self, data: Any, *flags: int) -> None:
            sent.append(len(data))
            super().sendall(data, *flags)

    def accept() -> tuple[socket.socket, Any]:
        connection, address = get_request()
        return CountingSocket(connection.family, connection.type, connection.proto, connection.detach()), address

    return accept


def _megabytes(page: Any) -> float:
    """Memory of the browser's processes that run pages, with their part of what processes share."""
    kibibytes = 0
    for process in _page_processes(page):
        memory = Path(f"/proc/{process['id']}/smaps_rollup").read_text(encoding="utf-8")
        kibibytes += sum(map(int, re.findall(r"^Pss:\s+(\d+)", memory, re.MULTILINE)))
    return kibibytes * 1024 / 1e6


def _processor_seconds(page: Any) -> float:
    """Time of processors that pages took so far, whatever else kept the processors busy."""
    return sum(process["cpuTime"] for process in _page_processes(page))


def _page_processes(page: Any) -> list[dict[str, Any]]:
    session = page.context.browser.new_browser_cdp_session()
    found = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return [process for process in found if process["type"] == "renderer"]


def _foreign(page: Any) -> int:
    return page.evaluate(
        """() => performance.getEntriesByType("resource").map(({ name }) => new URL(name))
            .filter(({ origin }) => origin !== location.origin).length"""
    )


if __name__ == "__main__":
    main()
