"""Imports Triton kernels so that they run on CUDA or else, on CPU tensors, in the interpreter of Triton."""

import importlib
import sys
from types import ModuleType

import pytest
import torch

ON_CUDA = torch.cuda.is_available()
DEVICE = "cuda" if ON_CUDA else "cpu"


def import_kernels(name: str) -> ModuleType:
    """The module of this name; without CUDA, a copy of it for the interpreter, which the package does not see."""
    return importlib.import_module(name) if ON_CUDA else _import_for_the_interpreter(name)


def _import_for_the_interpreter(name: str) -> ModuleType:
    """Imports the kernels with a second copy of Triton, which reads this variable when it is first imported."""

    def forget_triton():
        names = [name for name in sys.modules if name.partition(".")[0] == "triton" and "_C" not in name]
        return {name: sys.modules.pop(name) for name in names}

    first = forget_triton()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        module = importlib.import_module(name)
    for used in [name for name in sys.modules if name.startswith("modeling_lung_srad.triton_")]:
        del sys.modules[used]
    forget_triton()
    sys.modules.update(first)
    return module
