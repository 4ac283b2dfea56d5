"""Audio files as streams that a decoder reads to their end, whatever length their headers state.

A stated length is a hint: recorders that stop without warning leave too long a one, or none, and encoders of MP3 may
leave none at all, so that decoders guess. The module is saved with checkpoints.
"""

import contextlib
import io
import itertools
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .errors import InputError
from .file_content import FileContent, FileView, view_of

av: Any
try:
    import av
except ImportError:
    av = None

# Writers put a handful of chunks before the audio. A damaged file can have millions of empty ones.
MAX_CHUNKS = 10000
# Writers that cannot know a length leave one of the largest that fit, some less a header.
UNKNOWN_LENGTHS = 0x7FFF0000
# Less after the stated end is padding.
LEFT_OVER_BYTES = 8
# Between frames of MP3, tags and damage are skipped up to this far.
LONGEST_GAP = 2**20

MP3_IN_WAV = 0x55
MPEG1 = 3
KILOBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}

NOT_AUDIO = {
    b"version https://git-lfs": ("is a pointer of Git LFS and not the recording", "fetch it by `git lfs pull`"),
    b"<": ("is a web page or XML and not a recording", "download the recording itself"),
    b"PK\x03\x04": ("is a zip", "name it .zip, or unpack it"),
}
# Place and bytes of a signature; name of the format; the one demuxer of FFmpeg that may read it. Others, as those of
# playlists, would open further files and addresses.
FOR_PYAV = {
    (4, b"ftyp"): ("MPEG-4 (m4a, mp4, 3gp)", "mov"),
    (0, b"\x1a\x45\xdf\xa3"): ("WebM or Matroska", "matroska"),
    (0, b"#!AMR"): ("AMR", "amr"),
    (0, b"\x30\x26\xb2\x75"): ("Windows Media", "asf"),
    (0, b"\xff\xf1"): ("AAC", "aac"),
    (0, b"\xff\xf9"): ("AAC", "aac"),
    (0, b"fLaC"): ("FLAC of unknown length", "flac"),
}
CONVERT = "convert it to wav, by an audio editor or by `ffmpeg -i FILE NEW.wav`"

Content = bytes | FileContent
Pieces = list[bytes | memoryview | FileView]


class Streams(NamedTuple):
    """
    The streams of a file, and how much of the audio that its header states is missing.

    Args:
        streams (`list[Pieces]`): each decodes by itself, its pieces one after the other.
        missing (`float`): share of the audio there is that is missing at the end; negative for audio after its
            stated end.
        missing_seconds (`float`): the same in seconds, where it is known so.
    """

    streams: list[Pieces]
    missing: float = 0.0
    missing_seconds: float = 0.0


class PieceReader(io.RawIOBase):
    """A binary file made of pieces, without copying them."""

    def __init__(self, pieces: Pieces):
        self._pieces = pieces
        self._size = sum(map(len, pieces))
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        begin, done = 0, 0
        for piece in self._pieces:
            first = self._place - begin
            if 0 <= first < len(piece) and done < len(buffer):
                part = bytes(piece[first : first + len(buffer) - done])
                buffer[done : done + len(part)] = part
                done += len(part)
                self._place += len(part)
            begin += len(piece)
        return done


def read_streams(content: Content, name: object) -> Streams:
    """
    Finds the streams in the content of an audio file.

    Raises:
        InputError: a container without audio, or an Ogg stream without an end.
    """
    magic = content[:4]
    if magic in _LAYOUTS:
        return _read_chunks(content, _LAYOUTS[magic], name)
    if magic == b".snd" and len(content) >= 12:
        start, stated = struct.unpack(">II", content[4:12])
        return _fitted(content, start, stated, 8, ">I")
    if magic == b"fLaC":
        return Streams(_split(content, list(_starts_of_flac(content))))
    if magic == b"OggS":
        return _read_ogg(content, name)
    if magic[:3] == b"ID3" or _Mp3Frame.at(content, 0):
        return _read_mp3(content, 0, len(content))
    return Streams([[view_of(content)]])


class _Layout(NamedTuple):
    """
    A container of chunks.

    Args:
        first (`int`): place of the first chunk.
        id_bytes (`int`): of the name of a chunk.
        size (`str`): format of its size, which follows.
        counted (`int`): bytes of the chunk's own head that its size counts.
        align (`int`): chunks begin at multiples of this.
        audio (`bytes`): name of the chunk with the audio.
        skip (`int`): bytes in it before the audio.
    """

    first: int
    id_bytes: int
    size: str
    counted: int
    align: int
    audio: bytes
    skip: int


_WAV = _Layout(12, 4, "<I", 0, 2, b"data", 0)
_LAYOUTS = {
    b"RIFF": _WAV,
    b"RF64": _WAV,
    b"FORM": _Layout(12, 4, ">I", 0, 2, b"SSND", 8),
    b"caff": _Layout(8, 4, ">q", 0, 1, b"data", 4),
    b"riff": _Layout(40, 16, "<q", 24, 8, b"data", 0),
}


def _read_chunks(content: Content, layout: _Layout, name: object) -> Streams:
    is_mp3, place, long_place = False, layout.first, 0
    for _ in range(MAX_CHUNKS):
        size_at = place + layout.id_bytes
        body = size_at + struct.calcsize(layout.size)
        if body > len(content):
            return Streams([[view_of(content)]])
        kind = content[place : place + 4]
        (size,) = struct.unpack(layout.size, content[size_at:body])
        size -= layout.counted
        if kind == b"fmt ":
            is_mp3 = content[body : body + 2] == MP3_IN_WAV.to_bytes(2, "little")
        elif kind == b"ds64":
            # Files over 4 GiB (RF64) have the length of their audio here and a placeholder at its usual place.
            long_place = body + 8
        elif kind == layout.audio:
            start = body + layout.skip
            if is_mp3:
                return _read_mp3(content, start, len(content))
            if long_place:
                (size,) = struct.unpack("<Q", content[long_place : long_place + 8])
                return _fitted(content, start, size, long_place, "<Q")
            after = place + _aligned(body - place + max(size, 0), layout.align)
            if _is_chunk(content, after, layout):
                return Streams([[view_of(content)]])
            offset = layout.skip - layout.counted
            return _fitted(content, start, size - layout.skip if size > 0 else size, size_at, layout.size, offset)
        if size < 0:
            break
        place += _aligned(body - place + size, layout.align)
    raise InputError(name, "has no audio among its chunks", "copy or export the file again")


def _aligned(size: int, align: int) -> int:
    return -(-size // align) * align


def _is_chunk(content: Content, place: int, layout: _Layout) -> bool:
    """True if another chunk lies at a place, so that the one before has the right size."""
    body = place + layout.id_bytes + struct.calcsize(layout.size)
    if body > len(content):
        return False
    (size,) = struct.unpack(layout.size, content[place + layout.id_bytes : body])
    name = content[place : place + 4]
    return name.isascii() and name.decode("ascii").isprintable() and 0 <= size - layout.counted <= len(content) - body


def _fitted(content: Content, start: int, stated: int, size_at: int, size: str, counted: int = 0) -> Streams:
    """One stream whose header states the audio that there is, from `start` to the end of the file.

    Args:
        content (`Content`): the file.
        start (`int`): first byte of the audio.
        stated (`int`): its bytes by the header; 0, below or very large where the writer did not know.
        size_at (`int`): place of that number, to correct it.
        size (`str`): its format.
        counted (`int`): added to the number of bytes before it is written.
    """
    found = len(content) - start
    is_unknown = stated <= 0 or (stated > found and stated % 2**32 >= UNKNOWN_LENGTHS)
    left_over = found - stated
    if found <= 0 or (not is_unknown and 0 <= left_over < LEFT_OVER_BYTES):
        return Streams([[view_of(content)]])
    view, end = view_of(content), size_at + struct.calcsize(size)
    largest = 2 ** (8 * struct.calcsize(size) - size.islower()) - 1
    corrected = struct.pack(size, min(found + counted, largest))
    missing = 0.0 if is_unknown else -left_over / found
    return Streams([[view[:size_at], corrected, view[end:]]], missing)


def _split(content: Content, starts: list[int]) -> list[Pieces]:
    """The content as one stream from each of the places on; the first includes what lies before."""
    view, places = view_of(content), [0, *starts[1:], len(content)]
    return [[view[start:end]] for start, end in itertools.pairwise(places)]


def _starts_of_flac(content: Content) -> Iterator[int]:
    place = 0
    while place >= 0:
        # The first block, with the properties of the stream, has 34 bytes; the set bit says that it is the only one.
        if content[place + 4 : place + 8] in (b"\0\0\0\x22", b"\x80\0\0\x22"):
            yield place
        place = content.find(b"fLaC", place + 4)


def _read_ogg(content: Content, name: object) -> Streams:
    place, starts, is_ended, cut_position = 0, [], True, -1
    while place + 27 <= len(content) and content[place : place + 4] == b"OggS":
        flags, position = struct.unpack("<Bq", content[place + 5 : place + 14])
        segments = content[place + 27 : place + 27 + content[place + 26 : place + 27][0]]
        if flags & 2 and is_ended:
            starts.append(place)
        is_ended = bool(flags & 4)
        place += 27 + len(segments) + sum(segments)
        if place > len(content):
            cut_position = position
    if not is_ended:
        raise InputError(name, "is truncated (its Ogg stream lacks an end)", "copy or export the file again")
    rate = 48000 if content.find(b"OpusHead", 0, 4096) >= 0 else _rate_of_vorbis(content)
    streams = _split(content, starts)
    return Streams(streams, missing_seconds=_cut_seconds(content, cut_position, rate))


def _rate_of_vorbis(content: Content) -> int:
    place = content.find(b"\x01vorbis", 0, 4096)
    return int.from_bytes(content[place + 12 : place + 16], "little") if place >= 0 else 0


def _cut_seconds(content: Content, position: int, rate: int) -> float:
    """Seconds of the last page, which was cut off, by the difference of the positions of the last two pages."""
    last = content.rfind(b"OggS")
    before = content.rfind(b"OggS", 0, last)
    if position < 0 or rate <= 0 or before < 0:
        return 0.0
    return max(0, position - max(0, struct.unpack("<q", content[before + 6 : before + 14])[0])) / rate


class _Mp3Frame(NamedTuple):
    """The head of a frame of MPEG audio, layer III."""

    header: bytes
    version: int
    rate: int
    samples: int
    size: int

    @classmethod
    def at(cls, content: Content, place: int) -> "_Mp3Frame | None":
        header = content[place : place + 4]
        if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
            return None
        version, kilobits, rate, padding = (header[1] >> 3) & 3, header[2] >> 4, (header[2] >> 2) & 3, header[2] >> 1
        if version not in MP3_RATES or rate == 3 or kilobits in (0, 15):
            return None
        samples, hertz = (1152 if version == MPEG1 else 576), MP3_RATES[version][rate]
        size = samples // 8 * 1000 * KILOBITS[version == MPEG1][kilobits] // hertz + (padding & 1)
        return cls(bytes(header), version, hertz, samples, size)

    @property
    def side_bytes(self) -> int:
        """Bytes between the head and a table of contents: those of the side information."""
        is_mono = self.header[3] >> 6 == 3
        return {True: 17, False: 32}[is_mono] if self.version == MPEG1 else {True: 9, False: 17}[is_mono]

    def stated_frames(self, content: Content, place: int) -> int | None:
        """Number of frames that follow by a table of contents, 0 if it does not say; None if this is audio."""
        start = place + 4 + self.side_bytes
        if content[start : start + 4] in (b"Xing", b"Info"):
            flags, frames = (int.from_bytes(content[start + at : start + at + 4], "big") for at in (4, 8))
            return frames if flags & 1 else 0
        return int.from_bytes(content[place + 50 : place + 54], "big") if self._has_vbri(content, place) else None

    def _has_vbri(self, content: Content, place: int) -> bool:
        return content[place + 36 : place + 40] == b"VBRI"

    def table(self, frames: int) -> bytes:
        """A frame that states the number of frames that follow it."""
        length = 4 + self.side_bytes + 12
        for kilobits in range(1, 15):
            # Without padding and checksum, at the first bit rate whose frame is large enough.
            header = bytes((0xFF, self.header[1] | 1, kilobits << 4 | self.header[2] & 0x0D, self.header[3]))
            frame = _Mp3Frame.at(header, 0)
            if frame is not None and frame.size >= length:
                break
        table = header + bytes(self.side_bytes) + b"Xing" + struct.pack(">II", 1, frames)
        return table.ljust(frame.size if frame else length, b"\0")


def _read_mp3(content: Content, start: int, end: int) -> Streams:
    """One stream for each run of frames of one kind, with a table of contents that states their true number."""
    view, place = view_of(content), start
    runs: list[tuple[_Mp3Frame, list[tuple[int, int]], int]] = []
    stated, found, tables = 0, 0, 0
    while place < end:
        frame = _Mp3Frame.at(content, place)
        if frame is None or (
            runs and frame.rate != runs[-1][0].rate and not _Mp3Frame.at(content, place + frame.size)
        ):
            place = _next_frame(content, place, end)
            continue
        if place + frame.size > end:
            break
        declared = frame.stated_frames(content, place)
        if declared is not None:
            stated += declared
            tables += 1
        else:
            found += 1
            if not runs or frame.rate != runs[-1][0].rate:
                runs.append((frame, [], 0))
            head, spans, count = runs[-1]
            if spans and spans[-1][1] == place:
                spans[-1] = (spans[-1][0], place + frame.size)
            else:
                spans.append((place, place + frame.size))
            runs[-1] = (head, spans, count + 1)
        place += frame.size
    if not found:
        return Streams([[view[start:end]]])
    missing = (stated - found) * runs[0][0].samples / runs[0][0].rate if stated else 0.0
    if stated == found and tables == len(runs) == 1:
        # Its own table also says how much of the first and last frames is padding.
        return Streams([[view[start:end]]])
    streams: list[Pieces] = [[head.table(count), *(view[a:b] for a, b in spans)] for head, spans, count in runs]
    return Streams(streams, missing_seconds=max(0.0, missing))


def _next_frame(content: Content, place: int, end: int) -> int:
    """The next place from which on two frames follow each other, beyond a tag or damage; the end without one."""
    if content[place : place + 3] == b"ID3":
        size = content[place + 6 : place + 10]
        return place + 10 + sum((byte & 0x7F) << 7 * (3 - index) for index, byte in enumerate(size))
    limit = min(end, place + LONGEST_GAP)
    while (place := content.find(b"\xff", place + 1, limit)) >= 0:
        frame = _Mp3Frame.at(content, place)
        if frame and (_Mp3Frame.at(content, place + frame.size) or place + frame.size == end):
            return place
    return end


def is_for_pyav(head: bytes) -> bool:
    """True for the first bytes of what only [`PyavFile`] reads."""
    return bool(_for_pyav(head)[1])


def _for_pyav(head: bytes) -> tuple[str, str]:
    known = (kind for (place, sign), kind in FOR_PYAV.items() if head[place:].startswith(sign))
    return next(known, ("", ""))


class PyavFile:
    """
    A stream that FFmpeg decodes, with what is used of `soundfile.SoundFile`.

    Args:
        stream (`Pieces`): its content.
        name (`object`): what messages call it.
        problem (`str`): why libsndfile cannot read it.

    Raises:
        InputError: no audio, or PyAV is not installed.
    """

    def __init__(self, stream: Pieces, name: object, problem: str):
        head = b"".join(bytes(piece[:64]) for piece in stream[:1])
        for begin, (kind, remedy) in NOT_AUDIO.items():
            if head.lstrip().lower().startswith(begin.lower()):
                raise InputError(name, kind, remedy)
        kind, demuxer = _for_pyav(head)
        if not demuxer:
            raise InputError(name, problem, CONVERT)
        if av is None:
            raise InputError(name, f"is {kind}", f'install PyAV by `pip install "lung-srad[formats]"`, or {CONVERT}')
        try:
            self._container = av.open(PieceReader(stream), format=demuxer, metadata_errors="ignore")
            self._stream = self._container.streams.audio[0]
            self.samplerate, self.channels = self._stream.rate, self._stream.channels
        except (av.FFmpegError, AttributeError, IndexError, OSError, ValueError) as error:
            raise InputError(name, f"is {kind}, truncated or without sound", f"copy it again, or {CONVERT}") from error
        self.format = "PyAV"
        self.subtype = "" if self._stream.name in ("alac", "flac") else "MPEG"
        seconds = (self._container.duration or 0) / av.time_base
        if self._stream.duration is not None:
            seconds = float(self._stream.duration * self._stream.time_base)
        # Headers may state less than nothing.
        self.frames = max(0, int(seconds * self.samplerate))
        self._blocks = self._decode()

    def __enter__(self) -> "PyavFile":
        return self

    def __exit__(self, *arguments: object) -> None:
        self._container.close()

    def read(self, frames: int, dtype: str, always_2d: bool) -> np.ndarray:
        """The next frames, `(frames, channels)`: as many as the decoder returns at once, none at the end."""
        return next(self._blocks, np.zeros((0, self.channels), dtype=np.float32))

    def _decode(self) -> Iterator[np.ndarray]:
        resampler = av.AudioResampler(format="fltp", layout=self._stream.layout, rate=self.samplerate)
        done = lost = 0
        with contextlib.suppress(av.FFmpegError):  # The file ends within a packet; what is missing is counted.
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    lost += round((packet.duration or 0) * packet.time_base * self.samplerate)
                    continue
                for part in (part for frame in frames for part in resampler.resample(frame)):
                    done += part.samples
                    yield part.to_ndarray().T
        self.frames = max(self.frames, done + lost)
