"""Start, latency, memory and requests at once of the demo page, beside their limits.

OMP_NUM_THREADS=2 python -m benchmarks.space_load [--starts N] [--requests N]
OMP_NUM_THREADS=2 python -m benchmarks.space_load --users 50 [--minutes 10]
"""

import contextlib
import io
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import soundfile
from tqdm import tqdm

from benchmarks.command import build_parser
from dataset_scripts.simulated import simulate_recording

ROOT = Path(__file__).resolve().parents[1]
SECONDS_TO_FIRST_PAGE = 3.0
SECONDS_OF_ANSWER = 2.0
GIGABYTES = 1.5
# Limit for 100 more requests; the allocator alone varies by a few megabytes.
MEGABYTES_OF_GROWTH = 30.0
AT_ONCE = 20
# A user listens and reads before the next recording; some send what is not a recording.
READING_SECONDS = (0.0, 10.0)
BROKEN_FILES = (b"", b"not a recording", b"RIFF\xff\xff\xff\xffWAVEfmt ")
RECORDING_SECONDS = 30
SETTINGS = ("lung-srad-tiny (embedded)", 8, 4, 0.5)
TIMEOUT_SECONDS = 600


class Server(NamedTuple):
    """
    A running page: its address, its process, and the time from its start to its first page, by the clock and of the
    processors. Where both differ much, something else kept the processors busy.
    """

    address: str
    process: subprocess.Popen
    seconds_to_first_page: float
    processor_seconds_to_first_page: float

    def memory(self, field: str = "VmRSS") -> float:
        """Gigabytes (1e9 bytes) in memory now, or with `VmHWM` at most so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        kibibytes = re.search(rf"{field}:\s+(\d+)", status)
        return int(kibibytes[1]) * 1024 / 1e9 if kibibytes else float("nan")


@contextlib.contextmanager
def served(log: Path) -> Iterator[Server]:
    """Starts the page on a free port, waits for its first page, and ends it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port)}
    with log.open("w") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "space_demo.app"], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    try:
        _wait_for_page(address, process, log)
        yield Server(address, process, time.perf_counter() - start, _processor_seconds(process))
    finally:
        process.terminate()
        process.wait()


def upload(address: str, name: str, content: bytes) -> str:
    """Sends a file to the page and returns the path that it has on the server."""
    response = httpx.post(f"{address}/gradio_api/upload", files={"files": (name, content)}, timeout=TIMEOUT_SECONDS)
    response.raise_for_status()
    return response.json()[0]


def classify(address: str, path: str | None, settings: Sequence[object] = SETTINGS) -> str | None:
    """Asks about an upload; returns the answer as HTML, or `None` where the request was refused."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}} if path else None
    call = f"{address}/gradio_api/call/classify"
    response = httpx.post(call, json={"data": [file, *settings]}, timeout=TIMEOUT_SECONDS)
    response.raise_for_status()
    events = httpx.get(f"{call}/{response.json()['event_id']}", timeout=TIMEOUT_SECONDS).text
    kind, _, data = events[events.rindex("event: ") :].partition("\n")
    return json.loads(data.removeprefix("data: "))[0] if kind == "event: complete" else None


def simulated_file(seconds: int, seed: int, sampling_rate: int = 8000, channels: int = 1) -> bytes:
    """Content of a flac file with simulated breathing."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(4, size=seconds // 2 + 4).tolist()
    waveform = simulate_recording(labels, sampling_rate, generator)[0][: seconds * sampling_rate]
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([waveform] * channels, axis=1), sampling_rate, format="FLAC")
    return buffer.getvalue()


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = build_parser("space_load", __doc__)
    parser.add_argument("--starts", type=int, default=5, metavar="N", help="(default: 5)")
    parser.add_argument("--requests", type=int, default=200, metavar="N", help="one after another (default: 200)")
    parser.add_argument("--users", type=int, default=0, metavar="N", help="instead, so many users at once")
    parser.add_argument("--minutes", type=float, default=10, metavar="M", help="how long they stay (default: 10)")
    options = parser.parse_args(argv)
    if min(options.starts, options.requests) < 2:
        parser.error("--starts and --requests must be at least 2")
    if options.users < 0 or options.minutes <= 0:
        parser.error("--users must be 0 or more, --minutes above 0")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        if options.users:
            measure_users(options.users, options.minutes, log)
        else:
            measure(options.starts, options.requests, log)


def measure(starts: int, requests: int, log: Path) -> None:
    """Prints each figure and its limit."""
    starting, processor = [], []
    for _ in tqdm(range(starts - 1), desc="starts", leave=False):
        with served(log) as server:
            starting.append(server.seconds_to_first_page)
            processor.append(server.processor_seconds_to_first_page)
    files = [simulated_file(RECORDING_SECONDS, seed) for seed in range(AT_ONCE)]
    with served(log) as server:
        starting.append(server.seconds_to_first_page)
        processor.append(server.processor_seconds_to_first_page)
        _report(f"start to first page, median of {starts}", statistics.median(starting), "s", SECONDS_TO_FIRST_PAGE)
        _report("the slowest of them", max(starting), "s", SECONDS_TO_FIRST_PAGE)
        print(f"time of a processor until then, median: {statistics.median(processor):.2f} s")
        _wait_until_ready(log, server)
        print(f"memory after warm-up: {server.memory():.2f} GB")
        seconds, memory, processor_start = [], [], _processor_seconds(server.process)
        for number in tqdm(range(requests), desc="requests", leave=False):
            seconds.append(_answer(server, files[number % AT_ONCE]))
            memory.append(server.memory())
        _report(
            f"30 s recording, upload and answer, median of {requests}",
            statistics.median(seconds),
            "s",
            SECONDS_OF_ANSWER,
        )
        _report("the slowest of them", max(seconds), "s", SECONDS_OF_ANSWER)
        used = (_processor_seconds(server.process) - processor_start) / requests
        print(f"time of processors per request: {used:.2f} s")
        _report(f"memory after {requests} requests", memory[-1], "GB", GIGABYTES)
        growth = 1000 * (memory[-1] - memory[requests // 2 - 1])
        _report("growth over the second half of them", growth, "MB", MEGABYTES_OF_GROWTH)
        start = time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            answered = list(threads.map(lambda content: _answer(server, content), files))
        print(f"{len(answered)} of {AT_ONCE} requests at once answered, within {time.perf_counter() - start:.1f} s")
        long_file = simulated_file(600, 0, 48000, channels=2)
        print(f"10 min at 48 kHz in stereo, {len(long_file) / 1e6:.0f} MB: {_answer(server, long_file):.1f} s")
        _report("memory at most, with all of this", server.memory("VmHWM"), "GB", GIGABYTES)


def measure_users(users: int, minutes: float, log: Path) -> None:
    """Prints what users at once met: answers, refusals, errors, the slowest answer, and the page's memory."""
    files = [simulated_file(RECORDING_SECONDS, seed) for seed in range(AT_ONCE)]
    with served(log) as server:
        _wait_until_ready(log, server)
        end = time.monotonic() + 60 * minutes
        with ThreadPoolExecutor(users) as threads:
            visits = [threads.submit(_visit, server, files, seed, end) for seed in range(users)]
            memory = []
            while time.monotonic() < end:
                time.sleep(min(10.0, max(0.0, end - time.monotonic())))
                memory.append(server.memory())
                print(f"{(end - time.monotonic()) / 60:.1f} min left, {memory[-1]:.2f} GB", flush=True)
            met = [answer for visit in visits for answer in visit.result()]
        for kind, number in sorted(Counter(kind for kind, _ in met).items()):
            print(f"{kind}: {number}, the slowest after {max(s for other, s in met if other == kind):.1f} s")
        growth = 1000 * (memory[-1] - memory[len(memory) // 2])
        _report("growth of memory over the second half", growth, "MB", MEGABYTES_OF_GROWTH)
        _report("memory at most", server.memory("VmHWM"), "GB", GIGABYTES)


def _visit(server: Server, files: Sequence[bytes], seed: int, end: float) -> list[tuple[str, float]]:
    """Visits the page until `end`; returns the kind of each answer, and the seconds until it."""
    generator = np.random.default_rng(seed)
    met = []
    while time.monotonic() < end:
        broken = generator.random() < 0.1
        sendable = BROKEN_FILES if broken else files
        content = sendable[int(generator.integers(len(sendable)))]
        start = time.perf_counter()
        try:
            answer = classify(server.address, upload(server.address, "simulated.flac", content))
            kind = "error event" if answer is None else "answered" if "lung-answer" in answer else "told why not"
        except httpx.HTTPStatusError as error:
            full = error.response.status_code == 503 and "full" in error.response.text
            kind = "refused, the queue is full" if full else f"HTTP {error.response.status_code}"
        met.append((kind if not broken else f"{kind} (broken file)", time.perf_counter() - start))
        time.sleep(generator.uniform(*READING_SECONDS))
    return met


def _answer(server: Server, content: bytes) -> float:
    """Seconds from the beginning of the upload to the answer."""
    start = time.perf_counter()
    answer = classify(server.address, upload(server.address, "simulated.flac", content))
    seconds = time.perf_counter() - start
    if answer is None or "lung-answer" not in answer:
        raise RuntimeError(f"the page gave no answer but {answer}")
    return seconds


def _processor_seconds(process: subprocess.Popen) -> float:
    """Processor time of a process so far, in its own code and in the system's."""
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _wait_for_page(address: str, process: subprocess.Popen, log: Path) -> None:
    while process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(address, timeout=TIMEOUT_SECONDS).is_success:
                return
        time.sleep(0.02)
    raise RuntimeError(f"the page did not start: {log.read_text(encoding='utf-8')}")


def _wait_until_ready(log: Path, server: Server) -> None:
    while server.process.poll() is None and "Ready" not in log.read_text(encoding="utf-8"):
        time.sleep(0.1)


def _report(what: str, value: float, unit: str, most: float) -> None:
    print(f"{what}: {value:.2f} {unit} (limit {most:g} {unit}, {'kept' if value <= most else 'missed'})", flush=True)


if __name__ == "__main__":
    main()
