"""Parts of a file and places in it, beside those of the same bytes."""

import os

import numpy as np
import pytest

from modeling_lung_srad.errors import InputError
from modeling_lung_srad.file_content import SEARCHED_BYTES, FileContent, view_of


@pytest.fixture
def file(tmp_path):
    """Some blocks of random letters."""
    path = tmp_path / "letters"
    path.write_bytes(np.random.default_rng(0).choice([65, 66], 3 * SEARCHED_BYTES + 17).astype(np.uint8).tobytes())
    return path


def test_parts_and_views_of_parts_are_those_of_the_bytes(file):
    expected = file.read_bytes()
    with FileContent(file) as content:
        assert len(content) == len(expected)
        for part in (slice(0, 4), slice(70000, 70010), slice(len(expected) - 3, None), slice(9, 5), slice(-2, 10**9)):
            assert content[part] == expected[part]
            assert bytes(view_of(content)[part]) == expected[part]
        assert bytes(view_of(content)[10:90][5:200]) == expected[10:90][5:200]


@pytest.mark.parametrize("start", [0, 1, SEARCHED_BYTES - 2, 3 * SEARCHED_BYTES])
@pytest.mark.parametrize("stop", [None, 5, 2 * SEARCHED_BYTES + 3, 10**9])
def test_places_are_those_in_the_bytes(file, start, stop):
    expected = file.read_bytes()
    across = expected[SEARCHED_BYTES - 20 : SEARCHED_BYTES + 20]
    with FileContent(file) as content:
        for sought in (across, b"A", b"C", expected[-12:], expected[:12]):
            assert content.find(sought, start, stop) == expected.find(sought, start, stop)
            assert content.rfind(sought, start, stop) == expected.rfind(sought, start, stop)


@pytest.mark.parametrize("error", [None, IndexError("of a parser")])
def test_a_file_that_became_shorter_is_an_error_in_place_of_others(file, error):
    def shorten():
        with FileContent(file):
            os.truncate(file, 10)
            if error is not None:
                raise error

    with pytest.raises(InputError, match="letters: became shorter while it was read") as raised:
        shorten()
    assert raised.value.__cause__ is error


def test_a_file_that_became_longer_is_read_as_it_was(file):
    expected = file.read_bytes()
    with FileContent(file) as content, file.open("ab") as end:
        end.write(b"C")
        end.flush()
        assert content[-3:] == expected[-3:]
        assert content.find(b"C") == -1
