"""Changes bytes, text and JSON at random, in ways that keep part of their structure."""

import json
import math
from collections.abc import Sequence
from random import Random
from typing import Any

LONGEST_INPUT = 1 << 16
MOST_CHANGES = 4
# Sizes and counts that headers should not have, as bytes of both orders.
NUMBERS = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63 - 1,
    2**64 - 1,
)
SIGNS = "\t\t\n\r ,;:.-+eE0123456789\\\"'{}[]#&*!|>%@`\0\x1b\x85\u2028\ufeff\u0660\u00b2é😀"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, 1e-300, 1e308, -1e308, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, 10**400,
    math.nan, math.inf, -math.inf, "", " ", "0", "1", "nan", "1e999", "1" * 5000, "a" * 3000, "\0", "\ud800", "😀",
    "../../etc/passwd", "https://example.com/", [], {}, [[]], [0], [None], [1e308], ["a"], [1, 2, 3, 4], {"": None},
    {"0": "normal"}, {"a": {"b": []}},
)  # fmt: skip


def mutate_bytes(data: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    """One to four changes: bits, bytes, numbers in headers, and stretches that are cut, repeated or moved."""
    changed = bytearray(data)
    for _ in range(random.randint(1, MOST_CHANGES)):
        random.choice(_CHANGES)(changed, corpus, random)
    return bytes(changed[:LONGEST_INPUT])


def mutate_text(data: bytes, corpus: Sequence[bytes], words: Sequence[str], random: Random) -> bytes:
    """One to four changes to the fields and lines of a text; now and then to its bytes."""
    if random.random() < 0.1:
        return mutate_bytes(data, corpus, random)
    lines = [line.split("\t") for line in data.decode("utf-8", errors="replace").split("\n")]
    for _ in range(random.randint(1, MOST_CHANGES)):
        _change_lines(lines, corpus, words, random)
    text = "\n".join("\t".join(fields) for fields in lines)
    return text.encode("utf-8", errors="replace")[:LONGEST_INPUT]


def mutate_json(data: bytes, corpus: Sequence[bytes], random: Random, keys: Sequence[str] = ()) -> bytes:
    """One to four changes to the values and keys of a JSON document; now and then to its bytes."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, corpus, random)
    if random.random() < 0.1:
        return mutate_bytes(data, corpus, random)
    for _ in range(random.randint(1, MOST_CHANGES)):
        document = _change_value(document, keys, random)
    return json.dumps(document).encode()[:LONGEST_INPUT]


def random_value(random: Random) -> Any:
    """A value of JSON that few fields expect, also deep or long."""
    kind = random.random()
    if kind < 0.01:
        nested: Any = []
        for _ in range(random.choice((10, 100, 900))):
            nested = [nested]
        return nested
    if kind < 0.2:
        return random.choice((random.randint(-10, 1000), random.gauss(0, 10), 10 ** random.uniform(-9, 9)))
    return random.choice(VALUES)


def _change_value(document: Any, keys: Sequence[str], random: Random) -> Any:
    """A document with one of its values, or a key, changed."""
    if not isinstance(document, dict | list) or not document or random.random() < 0.1:
        return random_value(random)
    if isinstance(document, list):
        place = random.randrange(len(document))
        if (kind := random.random()) < 0.1:
            return document[:place] + document[place + 1 :]
        if kind < 0.2:
            return [*document, *document[place:]]
        return [*document[:place], _change_value(document[place], keys, random), *document[place + 1 :]]
    key = random.choice(list(document))
    if (kind := random.random()) < 0.1:
        return {other: value for other, value in document.items() if other != key}
    if kind < 0.3:
        return document | {random.choice((*keys, *document, "unknown")): random_value(random)}
    return document | {key: _change_value(document[key], keys, random)}


def _change_lines(lines: list[list[str]], corpus: Sequence[bytes], words: Sequence[str], random: Random) -> None:
    if not lines:
        lines.append([random.choice(words)])
    fields = random.choice(lines)
    place = random.randrange(len(fields)) if fields else 0
    kind = random.randrange(8)
    if kind == 0:
        lines.remove(fields)
    elif kind == 1:
        lines.insert(random.randint(0, len(lines)), list(fields))
    elif kind == 2:
        fields[place : place + 1] = []
    elif kind == 3:
        fields.insert(place, random.choice(words))
    elif kind == 4:
        other = random.choice(corpus).decode("utf-8", errors="replace").split("\n")
        lines.insert(random.randint(0, len(lines)), random.choice(other).split("\t"))
    elif kind == 5 and fields:
        at = random.randint(0, len(fields[place]))
        fields[place] = fields[place][:at] + random.choice(SIGNS) + fields[place][at + random.randint(0, 2) :]
    elif fields:
        number = str(random.choice((random.randint(0, 100), random.uniform(0, 20), 10 ** random.uniform(-5, 20))))
        fields[place] = random.choice((random.choice(words), number))


def _flip_bit(data: bytearray, corpus: Sequence[bytes], random: Random) -> None:
    if data:
        data[_place(data, random)] ^= 1 << random.randrange(8)


def _set_byte(data: bytearray, corpus: Sequence[bytes], random: Random) -> None:
    if data:
        data[_place(data, random)] = random.randrange(256)


def _set_number(data: bytearray, corpus: Sequence[bytes], random: Random) -> None:
    width = random.choice((1, 2, 4, 8))
    number = random.choice((*NUMBERS, len(data), random.getrandbits(32))) % 256**width
    place = _place(data, random)
    data[place : place + width] = number.to_bytes(width, random.choice(("little", "big")))


def _cut(data: bytearray, corpus: Sequence[bytes], random: Random) -> None:
    place = _place(data, random)
    del data[place : place + _length(random)]


def _cut_off(data: bytearray, corpus: Sequence[bytes], random: Random) -> None:
    del data[random.randint(0, len(data)) :]


def _repeat(data: bytearray, corpus: Sequence[bytes], random: Random) -> None:
    place = _place(data, random)
    data[place:place] = data[place : place + _length(random)] * random.randint(1, 4)


def _insert(data: bytearray, corpus: Sequence[bytes], random: Random) -> None:
    place = _place(data, random)
    data[place:place] = random.randbytes(random.randint(1, 16))


def _splice(data: bytearray, corpus: Sequence[bytes], random: Random) -> None:
    """A stretch of another input, at the same place or elsewhere."""
    other = random.choice(corpus)
    first = _place(other, random)
    place = first if random.random() < 0.5 else _place(data, random)
    data[place : place + random.choice((0, 16, len(data)))] = other[first : first + _length(random)]


_CHANGES = (_flip_bit, _set_byte, _set_number, _set_number, _cut, _cut_off, _repeat, _insert, _splice)


def _place(data: Sequence[int], random: Random) -> int:
    """Any place, more often one near the beginning, where the headers are."""
    last = max(len(data) - 1, 0)
    return random.randint(0, random.choice((min(64, last), min(512, last), last)))


def _length(random: Random) -> int:
    return int(2 ** random.uniform(0, 12))
