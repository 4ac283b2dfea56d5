"""The demo as a Space: what goes up imports and starts from a downloaded copy, without this package."""

import ast
import importlib.metadata
import re

import pytest
import yaml

from lung_srad_cli.publishing import space_repository
from lung_srad_cli.publishing.space_repository import imported_packages, prepare_space
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT
from space_demo.static import build
from tests.local_hub.store import Repository

START = """
import importlib.util, json, os, threading, time, urllib.request
from huggingface_hub import snapshot_download

folder = snapshot_download("user/demo", repo_type="space", local_dir=sys.argv[1])
os.chdir(folder)
sys.path.insert(0, folder)
origins = {name: importlib.util.find_spec(name).origin for name in ("space_demo", "modeling_lung_srad")}
missing = [name for name in ("training", "lung_srad_cli") if importlib.util.find_spec(name) is None]
port = int(sys.argv[2])
os.environ |= {"GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}

def fetch():
    page = ""
    deadline = time.monotonic() + 60
    while not page and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
                page = answer.read().decode()
        except OSError:
            time.sleep(0.1)
    found = json.dumps({"folder": folder, "origins": origins, "missing": missing, "page": page})
    # In one piece, since the page prints where it listens at the same time.
    os.write(1, f"\\n{found}\\n".encode())
    os._exit(0)

threading.Thread(target=fetch, daemon=True).start()
with open("app.py", encoding="utf-8") as file:
    code = compile(file.read(), "app.py", "exec")
exec(code, {"__name__": "__main__"})
"""


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A small checkout with a page that needs one of two packages."""
    files = {
        "space_demo/__init__.py": "",
        "space_demo/app.py": "def main():\n    from modeling_lung_srad.audio import SAMPLING_RATE\n",
        "space_demo/README.md": "---\ntitle: My demo\nmodels:\n- user/first\n---\n# Demo\n",
        "space_demo/requirements.txt": "torch\n",
        "space_demo/page.css": "body {}",
        "space_demo/__pycache__/app.cpython-311.pyc": "",
        "space_demo/outputs/answer.csv": "",
        "space_demo/.env": "HF_TOKEN=hf_secret",
        "space_demo/token.key": "hf_secret",
        "modeling_lung_srad/__init__.py": "",
        "modeling_lung_srad/audio.py": "SAMPLING_RATE = 16000\n",
        "modeling_lung_srad/checkpoints/lung-srad-tiny/model.safetensors": "weights",
        "modeling_lung_srad/checkpoints/lung-srad-tiny/optimizer.pt": "state",
        "modeling_lung_srad/checkpoints/mine/model.safetensors": "of patients",
        "modeling_lung_srad/checkpoints/mine/modeling_lung_srad.py": "",
        "modeling_lung_srad/patients.json": "{}",
        "dataset_scripts/patient.txt": "",
        "space_demo/examples/patient.wav": "RIFF",
        "space_demo/examples/patient.flac": "fLaC",
        "training/__init__.py": "",
        "dataset_scripts/__init__.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(space_repository, "ROOT", tmp_path / "checkout")
    return tmp_path / "checkout"


def names_of(requirements):
    return {re.match(r"[\w.-]*", line)[0] for line in requirements}


def card_of(files):
    text = next(file.source for file in files if file.path == "README.md").decode()
    return yaml.safe_load(text.split("---\n")[1]), text.split("---\n", 2)[2]


def test_the_page_and_the_packages_that_it_imports_go_up_and_nothing_else(demo):
    prepared = prepare_space("user/demo")
    assert sorted(file.path for file in prepared.files) == [
        "README.md",
        "app.py",
        "modeling_lung_srad/__init__.py",
        "modeling_lung_srad/audio.py",
        "modeling_lung_srad/checkpoints/lung-srad-tiny/model.safetensors",
        "requirements.txt",
        "space_demo/__init__.py",
        "space_demo/app.py",
        "space_demo/page.css",
    ]
    prepared.try_out()


def test_the_checkpoint_is_named_on_the_card_and_the_text_is_kept(demo):
    prepared = prepare_space("user/demo", "user/sounds")
    front_matter, text = card_of(prepared.files)
    assert text == "# Demo\n"
    assert front_matter == {"title": "My demo", "models": ["user/first", "user/sounds"]}
    assert prepared.variables == {"LUNG_SRAD_CHECKPOINTS": "user/sounds"}


def test_a_link_out_of_a_package_is_refused(demo, publish, tmp_path):
    (tmp_path / "secret.py").write_text("", encoding="utf-8")
    (demo / "modeling_lung_srad" / "linked.py").symlink_to(tmp_path / "secret.py")
    outcome = publish("space", "user/demo", "--dry-run")
    assert outcome.exit_code == 2
    assert (
        f"linked.py: is a link to {tmp_path / 'secret.py'}, outside {demo / 'modeling_lung_srad'}"
        in (outcome.errors[0])
    )


@pytest.mark.parametrize("name", ["app.py", "README.md", "requirements.txt"])
def test_an_installation_without_the_demo_is_told(demo, publish, name):
    (demo / "space_demo" / name).unlink()
    outcome = publish("space", "user/demo", "--dry-run")
    assert outcome.exit_code == 2
    assert f"space_demo: lacks {name}; run the command from a clone of lung-srad" in outcome.errors[0]


def test_the_own_card_and_requirements_suit_a_free_space():
    files = prepare_space("user/demo").files
    front_matter, text = card_of(files)
    assert "not a medical device" in text
    assert front_matter["sdk"] == "gradio"
    assert front_matter["sdk_version"] == "6.31.0"
    assert front_matter["python_version"] == "3.11"
    assert front_matter["app_file"] == "app.py"
    assert front_matter["license"] == "apache-2.0"
    lines = next(file.source for file in files if file.path == "requirements.txt").read_text().splitlines()
    # Free Spaces have no GPU; the default index serves torch with CUDA, which is 5 GB.
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in lines
    assert "torch==2.13.0+cpu" in lines
    needed = [line for line in importlib.metadata.requires("lung-srad") if "extra ==" not in line]
    assert names_of(needed) <= names_of(lines)
    # Visitors come with recordings of phones.
    assert "av" in names_of(lines)
    assert not any("lung-srad" in line for line in lines)


def test_the_own_embedded_checkpoint_goes_up_whole():
    prefix = "modeling_lung_srad/checkpoints/lung-srad-tiny/"
    paths = {file.path for file in prepare_space("user/demo").files}
    published = {path.removeprefix(prefix) for path in paths if "/checkpoints/" in path}
    assert published == {path.name for path in DEFAULT_CHECKPOINT.iterdir() if path.is_file()}


def test_a_checkpoint_that_is_no_longer_offered_is_taken_from_the_space(hub, demo, publish, monkeypatch):
    monkeypatch.setattr(space_repository, "_import_page", lambda *arguments: None)
    hub.store.repositories["model", "user/sounds"] = Repository("model", "user/sounds", private=False)
    assert publish("space", "user/demo", "--checkpoint", "user/sounds").exit_code == 0
    assert hub.repository("user/demo", "space").variables == {"LUNG_SRAD_CHECKPOINTS": "user/sounds"}
    sent = [request.path for request in hub.requests if request.method == "POST"]
    assert sent.index("/api/spaces/user/demo/commit/main") < sent.index("/api/spaces/user/demo/variables")
    for _ in range(2):
        outcome = publish("space", "user/demo")
        assert outcome.exit_code == 0, outcome.errors
        assert hub.repository("user/demo", "space").variables == {}


def test_a_page_that_lacks_something_is_not_uploaded(hub, demo, publish):
    (demo / "space_demo" / "page.py").write_text("import modeling_lung_srad.missing\n", encoding="utf-8")
    outcome = publish("space", "user/demo")
    assert outcome.exit_code == 2
    assert (
        "cannot be imported from the files to be published (ModuleNotFoundError: No module named "
        in (outcome.errors[-1])
    )
    assert hub.requests == []


def test_a_checkpoint_that_does_not_exist_is_named(hub, demo, publish):
    outcome = publish("space", "user/demo", "--checkpoint", "user/none")
    assert outcome.exit_code == 2
    assert "model user/none: does not exist for your token" in outcome.errors[-1]
    assert [request.method for request in hub.requests if "agent" not in request.path] == ["GET"]


def test_dry_run_asks_no_server(hub, demo, publish):
    outcome = publish("space", "user/demo", "--checkpoint", "user/none", "--dry-run")
    assert outcome.exit_code == 0, outcome.errors
    assert "app.py" in outcome.output
    assert hub.requests == []


def test_static_page_goes_up_with_a_card_that_asks_for_its_headers(hub, publish, tmp_path, monkeypatch):
    (tmp_path / "runtime").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>", encoding="utf-8")
    (tmp_path / "runtime" / "onnxruntime.js").write_text("", encoding="utf-8")
    monkeypatch.setattr(build, "build_site", lambda: tmp_path)
    outcome = publish("space", "user/static", "--static")
    assert outcome.exit_code == 0, outcome.errors
    repository = hub.repository("user/static", "space")
    assert repository.private
    assert {"README.md", "index.html", "runtime/onnxruntime.js"} <= set(repository.files)
    assert not any(path.endswith(".py") for path in repository.files)
    front_matter = yaml.safe_load(repository.files["README.md"].content.decode().split("---\n")[1])
    assert front_matter["sdk"] == repository.describe(repository.head)["sdk"] == "static"
    assert front_matter["custom_headers"] == {name.lower(): value for name, value in build.ISOLATION.items()}


def test_static_page_has_the_embedded_model_alone(publish):
    outcome = publish("space", "user/static", "--static", "--checkpoint", "user/sounds", "--dry-run")
    assert outcome.exit_code == 2
    assert "not allowed with argument --static" in outcome.errors[-1]


def test_packages_are_found_through_others():
    found = imported_packages("space_demo")
    assert found == sorted(found)
    assert {"space_demo", "modeling_lung_srad"} <= set(found)
    assert "lung_srad_cli" not in found


@pytest.mark.slow
def test_a_published_space_starts_from_a_downloaded_copy(
    hub, publish, run_elsewhere, tmp_path, free_port, monkeypatch
):
    # The start below asks more of the files than the trial before the upload, which takes as long.
    monkeypatch.setattr(space_repository, "_import_page", lambda *arguments: None)
    hub.store.repositories["model", "user/sounds"] = Repository("model", "user/sounds", private=False)
    outcome = publish("space", "user/demo", "--checkpoint", "user/sounds")
    assert outcome.exit_code == 0, outcome.errors
    repository = hub.repository("user/demo", "space")
    assert repository.private
    assert repository.variables == {"LUNG_SRAD_CHECKPOINTS": "user/sounds"}
    assert repository.describe(repository.head)["sdk"] == "gradio"
    for path, file in repository.files.items():
        assert "__pycache__" not in path
        if path.endswith(".py"):
            ast.parse(file.content)

    started = run_elsewhere(START, tmp_path / "copy", free_port)
    assert started["missing"] == ["training", "lung_srad_cli"]
    assert all(origin.startswith(started["folder"]) for origin in started["origins"].values())
    assert "gradio" in started["page"]
