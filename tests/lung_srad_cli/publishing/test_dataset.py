"""A data set repository: recordings of people stay here unless the user states to be allowed to share them."""

import json
import shutil

import pytest
import yaml


@pytest.fixture
def folder_of(prepared_folder, tmp_path):
    """A prepared folder that says to be of a database."""

    def copy(database):
        folder = tmp_path / database
        shutil.copytree(prepared_folder, folder)
        (folder / "prepared.json").write_text(json.dumps({"source": database}), encoding="utf-8")
        (folder / "sounds.py").write_text("print('a script')", encoding="utf-8")
        return folder

    return copy


def card_of(hub, name):
    text = hub.repository(name, "dataset").files["README.md"].content.decode()
    return yaml.safe_load(text.split("---\n")[1]), text.split("---\n", 2)[2]


@pytest.mark.parametrize(
    ("database", "address"),
    [
        ("icbhi", "https://bhichallenge.med.auth.gr"),
        ("sprsound", "https://github.com/SJTU-YONGFU-RESEARCH-GRP/SPRSound"),
    ],
)
@pytest.mark.parametrize("is_prepared", [True, False])
def test_without_further_words_only_a_card_goes_up_which_points_to_the_publishers(
    hub, publish, folder_of, database, address, is_prepared
):
    outcome = publish("dataset", folder_of(database) if is_prepared else database, "user/sounds")
    assert outcome.exit_code == 0, outcome.errors
    assert list(hub.repository("user/sounds", "dataset").files) == ["README.md"]
    front_matter, text = card_of(hub, "user/sounds")
    assert front_matter["license"] == "other"
    assert front_matter["license_link"] == address
    assert front_matter["task_categories"] == ["audio-classification"]
    assert "configs" not in front_matter
    assert address in text
    assert f"lung-srad prepare {database} " in text
    assert "This page holds no audio" in text


def test_audio_of_people_needs_the_statement_of_the_user(hub, publish, folder_of):
    folder = folder_of("icbhi")
    outcome = publish("dataset", folder, "user/sounds", "--with-audio")
    assert outcome.exit_code == 2
    assert "add --i-may-redistribute if you may" in outcome.errors[0]
    assert "https://bhichallenge.med.auth.gr" in outcome.errors[0]
    assert hub.requests == []

    outcome = publish("dataset", folder, "user/sounds", "--with-audio", "--i-may-redistribute")
    assert outcome.exit_code == 0, outcome.errors
    assert set(hub.repository("user/sounds", "dataset").files) == {
        "README.md",
        "prepared.json",
        "data/train-00000-of-00001.parquet",
        "data/test-00000-of-00001.parquet",
    }
    front_matter, text = card_of(hub, "user/sounds")
    assert [entry["split"] for entry in front_matter["configs"][0]["data_files"]] == ["train", "test"]
    assert 'load_dataset("user/sounds")' in text
    assert "stated to be allowed to redistribute" in text


def test_simulated_sounds_go_up_freely_and_are_called_so(hub, publish, prepared_folder):
    outcome = publish("dataset", prepared_folder, "user/sounds", "--public", "--license", "cc0-1.0")
    assert outcome.exit_code == 0, outcome.errors
    assert "simulated sounds, not recordings of anyone" in outcome.output
    assert not hub.repository("user/sounds", "dataset").private
    front_matter, text = card_of(hub, "user/sounds")
    assert front_matter["license"] == "cc0-1.0"
    assert "simulated" in front_matter["tags"]
    assert "they are not recordings of patients" in text


def test_what_is_no_database_is_named(publish, folder_of, tmp_path):
    def error_of(source, *options):
        outcome = publish("dataset", source, "user/sounds", "--dry-run", *options)
        assert outcome.exit_code == 2
        (error,) = outcome.errors
        return error

    assert "is neither icbhi nor sprsound nor a folder of `lung-srad prepare`" in error_of(tmp_path)
    assert "is neither icbhi" in error_of("no/such/folder")
    both = ("--with-audio", "--i-may-redistribute")
    assert "--with-audio needs a folder of audio" in error_of("icbhi", *both)
    folder = folder_of("icbhi")
    parquet = folder / "data" / "train-00000-of-00001.parquet"
    parquet.write_bytes(parquet.read_bytes()[:-10])
    assert f"{parquet}: is not a whole Parquet file" in error_of(folder, *both)
    shutil.rmtree(folder / "data")
    assert "lacks data/*.parquet" in error_of(folder, *both)
    for database in ("music", ["icbhi"]):
        (folder / "prepared.json").write_text(json.dumps({"source": database}), encoding="utf-8")
        assert f"source {database!r} is not known" in error_of(folder, *both)


def test_a_card_that_cannot_be_read_or_is_a_link_to_elsewhere_is_refused(publish, folder_of, tmp_path):
    folder = folder_of("simulated")
    (folder / "README.md").write_bytes(b"\xff")
    (error,) = publish("dataset", folder, "user/sounds", "--dry-run").errors
    assert f"{folder / 'README.md'}: is not UTF-8 text" in error
    (folder / "README.md").write_text("---\ntags: 5\n---\n")
    (error,) = publish("dataset", folder, "user/sounds", "--dry-run").errors
    assert "README.md: its front matter cannot be read" in error
    (tmp_path / "private.txt").write_text("private")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(tmp_path / "private.txt")
    (error,) = publish("dataset", folder, "user/sounds", "--dry-run").errors
    assert f"README.md: is a link to {tmp_path / 'private.txt'}, outside {folder}; put a copy in its place" in error


def test_dry_run_asks_no_server(hub, publish, prepared_folder):
    outcome = publish("dataset", prepared_folder, "user/sounds", "--dry-run")
    assert outcome.exit_code == 0
    assert "data/train-00000-of-00001.parquet" in outcome.output
    assert hub.requests == []
