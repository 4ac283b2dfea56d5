"""The code saved with a checkpoint. `python -m modeling_lung_srad.checkpoint_code` copies it to the embedded one."""

import shutil
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

from .checkpoint_loading import DEFAULT_CHECKPOINT


def checkpoint_code_files() -> list[Path]:
    """What `save_pretrained` copies: the modules that the model's imports, directly or through others, and itself."""
    folder = Path(__file__).resolve().parent
    saved = [folder / "modeling_lung_srad.py", folder / "feature_extraction_lung_srad.py"]
    return sorted({*saved, *(Path(name) for path in saved for name in get_relative_import_files(path))})


def copy_checkpoint_code(folder: Path) -> None:
    """Replaces the code in the folder of a checkpoint by that of this package."""
    for path in folder.glob("*.py"):
        path.unlink()
    for path in checkpoint_code_files():
        shutil.copyfile(path, folder / path.name)


if __name__ == "__main__":
    copy_checkpoint_code(DEFAULT_CHECKPOINT)
