"""`lung-srad classify` of recordings inside a zip."""

import zipfile

import pytest

from tests.lung_srad_cli.conftest import probabilities


def test_a_zip_is_read_without_being_unpacked(classify, write_recording, tmp_path):
    for name in ("b.wav", "deep/a.flac"):
        write_recording(name)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("b.wav", "deep/a.flac"):
            archive.write(tmp_path / name, name)
        archive.writestr("notes.txt", "no recording")
        archive.writestr("z.wav", "no audio")
    outcome = classify(tmp_path / "all.zip", "--format", "csv")
    assert outcome.exit_code == 2
    assert [row["file"] for row in outcome.rows] == [
        f"{tmp_path}/all.zip/b.wav",
        f"{tmp_path}/all.zip/deep/a.flac",
    ]
    expected = [classify(tmp_path / name, "--format", "csv").rows[0] for name in ("b.wav", "deep/a.flac")]
    assert [probabilities(row) for row in outcome.rows] == [probabilities(row) for row in expected]
    assert len(outcome.errors) == 1
    assert "all.zip/z.wav: is not readable audio" in outcome.errors[0]


def test_a_zip_whose_names_lead_out_of_it_is_refused_and_the_others_are_done(classify, write_recording, tmp_path):
    recording = write_recording("a.wav")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(recording, "../b.wav")
    outcome = classify(tmp_path / "all.zip", recording, "--format", "csv")
    assert outcome.exit_code == 2
    assert [row["file"] for row in outcome.rows] == [str(recording)]
    assert len(outcome.errors) == 1
    assert "all.zip/../b.wav: leads out of the zip; pack it again" in outcome.errors[0]
    assert not (tmp_path.parent / "b.wav").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("a.zip", b"PK no zip", "is not a readable zip"), ("b.zip", None, "contains no recordings")],
)
def test_a_zip_that_cannot_be_used_is_named(classify, tmp_path, name, content, said):
    if content is None:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("notes.txt", "")
    else:
        (tmp_path / name).write_bytes(content)
    outcome = classify(tmp_path / name)
    assert outcome.exit_code == 2
    assert said in outcome.errors[0]


def test_a_zip_bomb_is_refused_before_it_fills_the_memory(classify, monkeypatch, tmp_path):
    monkeypatch.setattr("modeling_lung_srad.files.recording_files.LARGEST_ARCHIVED_BYTES", 10**6)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", b"\0" * 10**7)
    outcome = classify(tmp_path / "bomb.zip")
    assert outcome.exit_code == 2
    assert "bomb.zip/a.wav: is larger than 0.001 GB" in outcome.errors[0]
