"""The answer as HTML, the parts to explain, and messages: what they say, and that nothing in them becomes HTML."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest

from modeling_lung_srad.errors import InputError
from modeling_lung_srad.timeline import summarize
from space_demo.analysis import answer_html, figure_text, summary_sentences
from space_demo.parts import Part, choices, parse
from space_demo.texts import error_html

EVIL = "<img src=x onerror=alert(1)>\"'&.wav"


def segment(start, end, abstained=False, flags=(), **probabilities):
    values = {name: probabilities.get(name, 0.0) for name in ("normal", "crackle", "wheeze", "both")}
    label = max(values, key=values.__getitem__)
    confidence = values[label]
    return {
        "start": start,
        "end": end,
        "label": label,
        "confidence": confidence,
        "abstained": abstained,
        "probabilities": values,
        "flags": list(flags),
    }


@pytest.fixture
def result():
    """0 to 8 s crackle (0.9), 4 to 12 s unsure, 8 to 16 s normal (0.75)."""
    timeline = [
        segment(0.0, 8.0, normal=0.1, crackle=0.9),
        segment(4.0, 12.0, abstained=True, normal=0.4, crackle=0.3, wheeze=0.3, flags=["clipping"]),
        segment(8.0, 16.0, normal=0.75, both=0.25),
    ]
    quality = [{"flag": "clipping", "message": "Cut <off>; turn it down.", "value": 0.1, "spans": [[5.0, 6.5]]}]
    return {
        "file": EVIL,
        "duration": 16.0,
        "sampling_rate": 44100,
        "calibrated": True,
        "cycles_given": False,
        "summary": summarize(timeline),
        "quality": quality,
        "timeline": timeline,
    }


class Elements(HTMLParser):
    """Tags of a piece of HTML, and the text of its table cells row by row."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.links, self.options = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "option":
            self.options.append(dict(attributes)["value"])
        if tag == "a":
            self.links.append(dict(attributes))

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()

    def handle_endtag(self, tag):
        if tag == "table":
            # The rest belongs to no cell.
            self.handle_data = lambda data: None


def test_name_of_the_file_is_text(result):
    elements = Elements(answer_html(result, ""))
    assert "img" not in elements.tags
    assert "&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;&amp;.wav" in answer_html(result, "")


def test_table_has_a_row_for_each_window(result):
    assert Elements(answer_html(result, "")).rows == [
        ["Time (s)", "Class", "normal", "crackle", "wheeze", "both", "Notes"],
        ["0.0–8.0", "crackle", "0.10", "0.90", "0.00", "0.00", ""],
        ["4.0–12.0", "normal", "0.40", "0.30", "0.30", "0.00", "unsure, clipping"],
        ["8.0–16.0", "normal", "0.75", "0.00", "0.00", "0.25", ""],
    ]


def test_link_holds_the_csv_of_the_command(result):
    link, answer, plot = Elements(answer_html(result, "")).links
    assert (link["download"], answer["download"]) == ("lung_sounds.csv", "lung_sounds.json")
    assert plot["download"] == "lung_sounds.webp"
    (written,) = json.loads(base64.b64decode(answer["href"].partition(";base64,")[2]))
    assert written["summary"] == result["summary"]
    kind, _, data = link["href"].partition(";base64,")
    assert kind == "data:text/csv;charset=utf-8"
    rows = list(csv.reader(io.StringIO(base64.b64decode(data).decode())))
    assert rows[0][:8] == ["file", "start", "end", "label", "normal", "crackle", "wheeze", "both"]
    assert [row[:4] for row in rows[1:]] == [
        [EVIL, "0.0", "8.0", "crackle"],
        [EVIL, "4.0", "12.0", "normal"],
        [EVIL, "8.0", "16.0", "normal"],
    ]


def test_summary_is_told_in_words(result):
    text = " ".join(summary_sentences(result))
    assert text == (
        "Recording of 16.0 s at 44.1 kHz. Where the model is sure enough, crackles are more likely than not in 50% of "
        "the recording, wheezes in 0%. The strongest part is a crackle from 0.0 to 8.0 s."
    )
    result["calibrated"] = False
    assert list(summary_sentences(result))[-1] == "The probabilities of this model are not calibrated."


@pytest.mark.parametrize(
    ("change", "headline"),
    [
        ({"flags": ["unfamiliar"]}, "No answer: it is unlike the lung sounds that the model was trained on"),
        ({"abstained": True}, "No answer: the model is not sure enough of any part"),
    ],
)
def test_no_answer_is_the_headline_and_no_share_is_stated(result, change, headline):
    result["timeline"] = [part | change for part in result["timeline"]]
    result["summary"] = summarize(result["timeline"])
    text = answer_html(result, "")
    assert f"<h2>{headline}</h2>" in text
    assert text.count("<dd>–</dd>") == 2
    assert "more likely than not" not in text
    assert "found no" not in text


def test_quality_is_told_with_its_times(result):
    text = answer_html(result, "")
    assert "<strong>Clipping</strong> (5.0–6.5 s): Cut &lt;off&gt;; turn it down." in text
    result["quality"][0]["spans"] = [[4.0, 12.0], [0.0, 8.0], [14.0, 15.0]]
    assert "<strong>Clipping</strong> (0.0–12.0 s, 14.0–15.0 s): " in answer_html(result, "")
    result["quality"] = []
    assert "Nothing wrong was found." in answer_html(result, "")


def test_figure_is_told_in_words(result):
    assert figure_text(result).startswith("Mel spectrogram of the 16.0 s")
    assert "(crackle, normal)" in figure_text(result)


def test_strongest_part_is_offered_first_and_parts_come_back(result):
    offered = choices(result)
    assert [text for text, _ in offered] == [
        "Strongest: 0.0–8.0 s: crackle (0.90)",
        "0.0–8.0 s: crackle (0.90)",
        "4.0–12.0 s: normal (0.40)",
        "8.0–16.0 s: normal (0.75)",
    ]
    assert Elements(answer_html(result, "")).options == [value for _, value in offered]
    assert [parse(value) for _, value in offered] == [
        Part(0.0, 8.0, "crackle"),
        Part(0.0, 8.0, "crackle"),
        Part(4.0, 12.0, "normal"),
        Part(8.0, 16.0, "normal"),
    ]


@pytest.mark.parametrize(
    "value", [None, "", "1 2", "a b crackle", "0 8 stridor", "8 0 crackle", "-1 8 crackle", "nan 1 both"]
)
def test_other_parts_are_refused(value):
    with pytest.raises(InputError, match="none was chosen"):
        parse(value)


def test_message_has_problem_and_remedy_and_no_html():
    text = error_html("<script>.wav: is silent\nhere; check the\nmicrophone")
    assert re.search(r"<p>&lt;script&gt;\.wav: is silent here\.</p><p>What helps: check the microphone\.</p>", text)
    assert 'role="alert"' in text
    assert "What helps" not in error_html("no remedy")
