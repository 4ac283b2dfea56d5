import pytest

from modeling_lung_srad.errors import InputError
from training.configuration import CONFIGS, expand_seeds, read_configuration


@pytest.fixture
def write(tmp_path):
    def write_configuration(text, name="config.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_configuration


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_of_the_project_are_valid(path):
    read_configuration(path, ["output_dir=runs/x"])


@pytest.mark.parametrize(
    ("name", "largest_norm"),
    [("table1/lung_srad", 0), ("table1/ast", 0), ("tiny_cpu_finetune", 1), ("ast_tiny", 1)],
)
def test_gradients_are_clipped_for_the_tiny_networks_and_not_in_the_recipe_of_the_paper(name, largest_norm):
    assert read_configuration(CONFIGS / f"{name}.yaml")[1].max_grad_norm == largest_norm


def test_inheriting_file_and_overrides_win_key_by_key(write):
    write("seed: 3\nmodel: {size: small, config: {drop_path_rate: 0.3}}\ndata: {split: fold1}", "base.yaml")
    path = write("extends: base.yaml\nmodel: {size: tiny}\nlearning_rate: 1e-3")
    arguments, training_arguments = read_configuration(path, ["data.icbhi=/data/icbhi", "seed=4", "bf16=false"])
    assert (arguments.model.size, arguments.model.config) == ("tiny", {"drop_path_rate": 0.3})
    assert (arguments.data.split, arguments.data.icbhi) == ("fold1", "/data/icbhi")
    assert (training_arguments.seed, training_arguments.learning_rate) == (4, 1e-3)


def test_output_dir_is_named_after_the_configuration(write):
    assert read_configuration(write("seed: 1"))[1].output_dir == "runs/config"


def test_defaults_keep_the_best_epoch_by_validation_score(write):
    training_arguments = read_configuration(write("seed: 1"))[1]
    assert training_arguments.load_best_model_at_end
    assert training_arguments.metric_for_best_model == "score"
    assert training_arguments.greater_is_better
    assert not read_configuration(write("metric_for_best_model: loss"))[1].greater_is_better
    assert training_arguments.lr_scheduler_kwargs == {"min_lr_rate": 0.001}


def test_another_schedule_gets_no_foreign_settings(write):
    assert read_configuration(write("lr_scheduler_type: linear"))[1].lr_scheduler_kwargs is None


def test_unquoted_no_is_a_strategy(write):
    text = "eval_strategy: no\nsave_strategy: no\nselection: last"
    assert read_configuration(write(text))[1].eval_strategy == "no"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("learning_rat: 0.1", [], "unknown key learning_rat; the nearest valid one is learning_rate"),
        ("augmentation: {rol: true}", [], "unknown key augmentation.rol; the nearest valid one is augmentation.roll"),
        ("rol: true", [], "unknown key rol; the nearest valid one is augmentation.roll"),
        ("seed: 1", ["sampling.clas_balance=1"], "the nearest valid one is sampling.class_balance"),
        ("seed: 1", ["num_epochs=3"], "the nearest valid one is num_train_epochs"),
        ("learning_rate: fast", [], "learning_rate: 'fast' should be of type float"),
        ("num_train_epochs: true", [], "num_train_epochs: True should be of type float"),
        ("seed: 1.5", [], "seed: 1.5 should be of type int"),
        ("augmentation: {roll: 1}", [], "augmentation.roll: 1 should be of type bool"),
        ("lr_scheduler_type: cosin", [], "lr_scheduler_type: .cosin. is not one of .*; the nearest is cosine"),
        ("data: 3", [], "data is a section"),
        ("seed: 1", ["data.icbhi.path=x", "data.icbhi.path.deep=y"], "is a value, not a section"),
        ("seed: 1", ["seed"], "an override is key=value"),
        ("seed: 1", ["seed=2", "ma_beta=0.5", "seed=3"], "'seed=3': seed is there twice, first as 'seed=2'; keep one"),
        ("bf16_full_eval: true", [], "bf16_full_eval: would round the weights"),
        ("fp16_full_eval: true", [], "fp16_full_eval: would round the weights"),
        ("save_only_model: true", [], "save_only_model: would leave nothing to go on from"),
        ("ignore_data_skip: true", [], "ignore_data_skip: would go on with other cycles"),
        ("seed: [1", [], "not valid YAML"),
        ("- 1", [], "not a YAML mapping"),
        ("objective: {mode: duel}", [], "objective.mode: 'duel' is not one of .*; the nearest is dual"),
        ("objective: {projector: fixed}", [], "objective.projector: 'fixed' is not one of trained, frozen"),
        ("objective: {temperature: 0}", [], "objective.temperature: 0.0 should be above 0"),
        ("objective: {mel_weight: -1}", [], "objective.mel_weight: -1.0 should be 0 or more"),
        ("selection: tests", [], "selection: 'tests' is not one of validation, last, test; the nearest is test"),
        ("ma_beta: 1", [], "ma_beta: 1.0 should be at least 0 and below 1"),
        ("load_best_model_at_end: true", [], "load_best_model_at_end: use selection instead"),
        ("dataloader_drop_last: true", [], "dataloader_drop_last: would leave out cycles"),
        ("eval_strategy: no", [], "selection: 'validation' needs eval_strategy and save_strategy"),
        ("{lr_per_epoch: true, warmup_steps: 5}", [], "lr_per_epoch: goes with"),
        ("extends: config.yaml", [], "extends itself"),
        ('extends: "\\0"', [], "is not a valid file name .*; check the path"),
        ('extends: "\\ud83d"', [], "is not a valid file name .*; check the path"),
        (f"extends: {'a' * 300}", [], "is not a valid file name .*; check the path"),
        (f"seed: {10**400}", [], "seed: 10+ should be of type int"),
        (f"seed: {'1' * 5000}", [], "not valid YAML: Exceeds the limit"),
        ("seed: 1", [f"model.size=0{'1' * 5000}"], "not valid YAML: Exceeds the limit"),
        ("seed: 1", [f"seed={'1' * 5000}"], "not valid YAML: Exceeds the limit"),
        ("seed: 2026-13-01", [], "not valid YAML: month must be in 1..12"),
        ("seed: " + "[" * 2000, [], "not valid YAML: maximum recursion depth"),
        ("extends: nowhere.yaml", [], "no such configuration file"),
    ],
)
def test_what_cannot_be_used_is_named(write, text, overrides, message):
    with pytest.raises(InputError, match=message) as raised:
        read_configuration(write(text), overrides)
    assert "\n" not in str(raised.value)


def test_missing_file_is_named_with_the_nearest_that_exists(tmp_path):
    with pytest.raises(InputError, match=r"lung_sard.yaml: no such .* the nearest is table1/lung_srad.yaml"):
        read_configuration(tmp_path / "lung_sard.yaml")


def test_null_empties_what_a_section_inherits(write):
    write("model: {config: {drop_path_rate: 0.3}}", "base.yaml")
    arguments, _ = read_configuration(write("extends: base.yaml\nmodel: {config: null}"))
    assert arguments.model.config == {}


def test_range_of_seeds_becomes_a_run_for_each(write):
    path = write("seed: 7")
    assert expand_seeds(path, ["bf16=false"]) == [["bf16=false"]]
    runs = [
        read_configuration(path, overrides)[1]
        for overrides in expand_seeds(path, ["seed=1..3", "ma_beta=0.5", "output_dir=runs/five"])
    ]
    assert [(run.seed, run.output_dir, run.ma_beta) for run in runs] == [
        (seed, f"runs/five/seed-{seed}", 0.5) for seed in (1, 2, 3)
    ]
    for text in ("3..1", "1..", "a..b", f"1..{'9' * 5000}"):
        with pytest.raises(InputError, match="should be a range of whole numbers such as"):
            expand_seeds(path, [f"seed={text}"])


def test_rows_of_the_published_table_differ_by_what_their_names_say():
    def row(name):
        arguments, training_arguments = read_configuration(CONFIGS / "table1" / f"{name}.yaml")
        return arguments, training_arguments

    lung_srad, recipe = row("lung_srad")
    assert (recipe.learning_rate, recipe.weight_decay, recipe.num_train_epochs) == (5e-5, 1e-6, 50)
    assert (recipe.ma_beta, recipe.lr_per_epoch, recipe.per_device_train_batch_size) == (0.5, True, 16)
    assert recipe.selection == "validation"
    assert lung_srad.objective.mode == "dual"
    assert lung_srad.model.config["gaussian_blocks"] == [2, 3]
    assert row("dass")[0].objective.mode == row("ast")[0].objective.mode == "none"
    assert row("dass")[0].model.config["gaussian_blocks"] == []
    assert row("dass_patch_mix_dual")[0].model.config["gaussian_blocks"] == []
    assert row("ast_patch_mix")[0].objective.mode == "2d"
    assert row("ast_patch_mix")[0].model == row("ast")[0].model
    for path in (CONFIGS / "ablations").glob("*.yaml"):
        arguments, training_arguments = read_configuration(path, ["output_dir=runs/lung_srad"])
        assert arguments != lung_srad
        assert training_arguments.to_dict() == recipe.to_dict()
