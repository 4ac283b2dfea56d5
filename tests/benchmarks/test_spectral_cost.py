from benchmarks.spectral_cost import describe, measure_stage


def test_figures_are_of_the_stage():
    figures = measure_stage("tiny", frames=128, stage=2, repeats=1)
    assert (figures["grid"], figures["channels"]) == ((8, 8), 96)
    assert figures["block_seconds"] > 0
    assert figures["bytes"] >= 0


def test_stage_beyond_the_goal_is_named():
    figures = {"grid": (16, 128), "channels": 192, "forward_seconds": 1.0, "block_processor_seconds": 1.0}
    quick = figures | {"block_seconds": 1.9, "bytes": 9 * 10**8}
    table = describe({0: quick | {"block_seconds": 2.1}, 1: quick | {"bytes": 2 * 10**9}, 2: quick}).splitlines()
    assert [line.endswith("| not met |") for line in table[2:]] == [True, True, False]
    assert table[4] == "| 2 | 16 x 128 | 192 | 1.00 | 1.90 | 1.00 | 900 | met |"
