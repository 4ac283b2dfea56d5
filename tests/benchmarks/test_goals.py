"""Goals and ratios of made-up measurements."""

import pytest

from benchmarks.cases import Case, Measurement
from benchmarks.goals import Goal, evaluate_goals, ratios_to_ours


def test_every_goal_has_the_value_that_the_measurements_give_it(measurements):
    values = {goal.text: goal.value for goal in evaluate_goals(measurements)}
    assert values == pytest.approx(
        {
            "one clip, sequential scan / ours": 5.0,
            "one clip, AST-base / ours": 6.0,
            "one clip, ours / scan removed": 2.0,
            "a clip of a batch of 8 / a clip alone": 0.75,
            "training step of 4, sequential scan / ours": 5.0,
            "training step of 4, peak memory, ours / sequential scan": 0.25,
            "time by length, exponent": 1.0,
            "peak memory by length, exponent": 1.0,
            "10 min in one pass, peak memory in GB": 3.6,
        }
    )


def test_a_goal_is_missed_on_the_other_side_of_its_bound(measurements):
    missed = ["one clip, sequential scan / ours", "one clip, ours / scan removed"]
    assert [goal.text for goal in evaluate_goals(measurements) if not goal.is_reached] == missed
    assert Goal("", 4.0, 4.0).is_reached
    assert not Goal("", 3.9, 4.0).is_reached


def test_goals_without_measurements_are_left_out(measurements):
    assert evaluate_goals([]) == []
    texts = [goal.text for goal in evaluate_goals(measurements[:2])]
    assert texts == ["one clip, sequential scan / ours"]


def test_only_the_highest_number_of_threads_of_a_section_counts(measurements):
    expected = evaluate_goals(measurements)
    measurements += [
        Measurement(Case("torch"), "one_clip", 1, [1.0]),
        Measurement(Case("sequential"), "one_clip", 1, [1.0]),
    ]
    assert evaluate_goals(measurements) == expected
    measurements += [
        Measurement(Case("torch"), "one_clip", 4, [1.0]),
        Measurement(Case("sequential"), "one_clip", 4, [7.0]),
    ]
    assert evaluate_goals(measurements)[0].value == pytest.approx(7.0)
    assert evaluate_goals(measurements)[1:] == expected[3:]


def test_ratios_compare_the_same_input_only(measurements):
    rows = ratios_to_ours(measurements)
    one_clip = {row["contender"]: row["times_ours"] for row in rows if row["section"] == "one_clip"}
    assert one_clip == pytest.approx({"sequential": 5.0, "no_scan": 0.5, "ast": 6.0})
    assert len(rows) == 3 + 1 + 1


def test_on_a_cpu_numba_is_ours_and_torch_a_peer(measurements):
    measurements += [
        Measurement(Case("numba"), "one_clip", 2, [0.1, 0.1, 0.1]),
        Measurement(Case("numba", step="training", batch=4), "training", 2, [2.0, 2.0, 2.0], 1_000_000_000),
        Measurement(Case("numba", size="tiny"), "one_clip", 2, [0.3]),
        Measurement(Case("no_scan", size="tiny"), "one_clip", 2, [0.2]),
        Measurement(Case("numba", size="tiny", step="training", batch=4), "training", 2, [0.5], 30),
        Measurement(Case("torch", size="tiny", step="training", batch=4), "training", 2, [0.6], 20),
    ]
    goals = {goal.text: goal for goal in evaluate_goals(measurements)}
    values = {
        "one clip, sequential scan / ours": 10.0,
        "training step of 4, torch scan / ours": 1.5,
        "training step of 4, peak memory, ours / torch scan": 0.5,
        "tiny: one clip, ours / scan removed": 1.5,
        "tiny: training step of 4, torch scan / ours": 1.2,
        "tiny: training step of 4, peak memory, ours / torch scan": 1.5,
    }
    assert {text: goals[text].value for text in values} == pytest.approx(values)
    assert [goals[text].is_reached for text in values] == [True, True, True, True, False, False]
    ratios = {row["contender"]: row for row in ratios_to_ours(measurements) if row["section"] == "one_clip"}
    assert ratios["torch"]["times_ours"] == pytest.approx(2.0)
    assert "numba" not in ratios


def test_on_cuda_triton_is_ours(measurements):
    def on_cuda(contender, section, step, seconds, **case):
        case = {"batch": 32, "step": step, "device": "cuda"} | case
        return Measurement(Case(contender, **case), section, 2, [seconds])

    rows = [
        on_cuda("mamba_ssm", "batch", "inference", 0.3),
        on_cuda("triton", "batch", "inference", 0.1),
        on_cuda("torch", "batch", "inference", 0.5),
        on_cuda("mamba_ssm", "training", "training", 0.6),
        on_cuda("triton", "training", "training", 0.6),
    ]
    ratios = {(row["section"], row["contender"]): row["times_ours"] for row in ratios_to_ours(rows)}
    assert ratios == pytest.approx({("batch", "mamba_ssm"): 3, ("batch", "torch"): 5, ("training", "mamba_ssm"): 1})
    goals = evaluate_goals(rows)
    assert [goal.value for goal in goals] == pytest.approx([3.0, 1.0])
    assert [goal.is_reached for goal in goals] == [True, False]
