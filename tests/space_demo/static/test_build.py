"""The folder of the static page: whole, listed for the service worker, and built again only where needed."""

import json
import re

import pytest

from modeling_lung_srad.errors import InputError
from space_demo.static import build
from space_demo.static.build import PAGE, build_site, page_headers, site_files


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """Neither npm nor the exporter is run; the list has the exports."""
    calls = []
    runtime = {name: tmp_path / name for name in ("onnxruntime.js", "onnxruntime.wasm.gzip")}
    for path in runtime.values():
        path.write_bytes(b"runtime")

    def export(lung_sounds, path):
        calls.append(path)
        path.write_bytes(b"network")

    monkeypatch.setattr(build, "get_runtime", lambda cache: runtime)
    monkeypatch.setattr(build, "_export", export)
    return calls


def read_list(folder):
    """The values of `cached_files.js`, by name."""
    text = (folder / "cached_files.js").read_text()
    return {name: json.loads(value) for name, value in re.findall(r"^self\.([A-Z]+) = (.*);$", text, re.MULTILINE)}


def test_all_files_are_kept_for_offline_use_but_the_service_worker(tmp_path, exported):
    folder = build_site(tmp_path / "outputs" / "site")
    files = read_list(folder)["FILES"]
    assert sorted([*files, "cached_files.js", "service_worker.js"]) == sorted(["./", *site_files(folder)])
    assert {"index.html", "model.onnx", "settings.json", "examples/simulated wheezes.wav"} <= set(files)
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["model"]["bytes"] == len(b"network")
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith("tmp")] == []


def test_the_network_is_exported_again_only_where_it_is_not_the_one_that_was_made(tmp_path, exported):
    folder = build_site(tmp_path / "site")
    version = read_list(folder)["VERSION"]
    assert read_list(build_site(folder))["VERSION"] == version
    assert len(exported) == 1
    (folder / "model.onnx").write_bytes(b"damaged")
    build_site(folder)
    assert len(exported) == 2
    assert (folder / "model.onnx").read_bytes() == b"network"


def test_a_page_that_is_served_stays_in_place_where_nothing_changed(tmp_path, exported):
    folder = build_site(tmp_path / "site")
    page = (folder / "index.html").stat().st_ino
    assert (build_site(folder) / "index.html").stat().st_ino == page
    (folder / "page.js").write_text("damaged")
    assert "damaged" not in (build_site(folder) / "page.js").read_text()


def test_a_folder_of_something_else_is_left_alone(tmp_path, exported):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "recording.wav").write_bytes(b"mine")
    with pytest.raises(InputError, match="holds something else"):
        build_site(tmp_path / "site")
    assert (tmp_path / "site" / "recording.wav").read_bytes() == b"mine"


def test_policy_of_the_page_allows_its_own_files_alone():
    policy = dict(rule.strip().split(" ", 1) for rule in page_headers()["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe-inline" not in str(policy)
    assert set(" ".join(policy.values()).split()) == {"'none'", "'self'", "'wasm-unsafe-eval'", "blob:"}


def test_every_file_that_the_page_names_is_part_of_it():
    named = set()
    for path in PAGE.iterdir():
        named |= set(re.findall(r'(?:from|href=|src=|new URL\() ?"(?:\./)?([\w./-]+\.\w+)"', path.read_text()))
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", path.read_text()), path
    made_by_the_build = {"runtime/onnxruntime.js", "model.onnx"}
    assert {"page.js", "worker.js", "manifest.json"} <= named
    assert [name for name in named - made_by_the_build if not (PAGE / name).is_file()] == []
