"""The JSON, the Markdown and the plot of made-up measurements."""

import json

import pytest

from benchmarks.report import COLORS, measurements_of, plot_cost_by_length, write_report


def test_json_keeps_every_raw_time(results, measurements, tmp_path):
    write_report(results, tmp_path / "new")
    written = json.loads((tmp_path / "new/speed.json").read_text(encoding="utf-8"))
    assert measurements_of(written) == measurements
    assert written["machine"] == results["machine"]
    assert [goal["is_reached"] for goal in written["goals"]].count(False) == 2


def test_markdown_shows_goals_and_what_is_left_out(results, tmp_path):
    write_report(results, tmp_path)
    text = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert "| one clip, AST-base / ours | 6.00 | at least 4.5 | yes |" in text
    assert "| one clip, ours / scan removed | 2.00 | at most 1.25 | no |" in text
    assert "| sequential scan | medium | 2 | 1 | 10.24 | 3 | 1 | 1 | 5.00 |  |" in text
    assert "Left out: AST-base: AST-base takes 1024 frames only." in text


def test_contenders_differ_in_colour():
    assert len(set(COLORS.values())) == len(COLORS)


def test_every_table_row_has_as_many_cells_as_its_header(results, tmp_path):
    write_report(results, tmp_path)
    cells = 0
    for line in (tmp_path / "speed.md").read_text(encoding="utf-8").splitlines():
        cells = line.count("|") if line.startswith("|") and not cells else cells
        assert line.count("|") == cells or not line.startswith("|"), line
        cells = cells if line.startswith("|") else 0


def test_the_plot_shows_time_and_memory_of_each_contender(measurements, tmp_path):
    seconds, memory = plot_cost_by_length(measurements).axes
    assert [line.get_label() for line in seconds.lines] == ["lung-srad, torch scan", "sequential scan"]
    assert list(seconds.lines[0].get_xdata()) == pytest.approx([10, 60, 600])
    assert list(memory.lines[0].get_ydata()) == pytest.approx([0.06, 0.36, 3.6])
    assert seconds.get_xscale() == memory.get_yscale() == "log"


def test_a_plot_is_written_where_lengths_were_measured(results, tmp_path):
    write_report(results, tmp_path)
    assert (tmp_path / "cost_by_length.png").read_bytes().startswith(b"\x89PNG")
    del results["sections"]["length"]
    write_report(results, tmp_path / "without")
    assert not (tmp_path / "without/cost_by_length.png").exists()
