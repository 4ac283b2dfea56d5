import pytest

from training.configuration import CONFIGS, ConfigurationError, read_configuration


@pytest.fixture
def write(tmp_path):
    def write_configuration(text, name="config.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_configuration


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_of_the_project_are_valid(path):
    read_configuration(path, ["output_dir=runs/x"])


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
    text = "eval_strategy: no\nsave_strategy: no\nload_best_model_at_end: false"
    assert read_configuration(write(text))[1].eval_strategy == "no"


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("learning_rat: 0.1", [], "no key learning_rat; the nearest valid one is learning_rate"),
        ("augmentation: {rol: true}", [], "no key augmentation.rol; the nearest valid one is augmentation.roll"),
        ("rol: true", [], "no key rol; the nearest valid one is augmentation.roll"),
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
        ("seed: [1", [], "not valid YAML"),
        ("- 1", [], "not a YAML mapping"),
        ("extends: config.yaml", [], "extends itself"),
        ("extends: nowhere.yaml", [], "no such configuration file"),
    ],
)
def test_what_cannot_be_used_is_named(write, text, overrides, message):
    with pytest.raises(ConfigurationError, match=message) as raised:
        read_configuration(write(text), overrides)
    assert "\n" not in str(raised.value)


def test_missing_file_is_named_with_the_configurations_that_exist(tmp_path):
    with pytest.raises(ConfigurationError, match=r"missing.yaml: no such configuration file; .*tiny_cpu.yaml"):
        read_configuration(tmp_path / "missing.yaml")
