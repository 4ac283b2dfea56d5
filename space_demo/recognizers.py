"""The checkpoints to choose from, loaded when they are first asked for."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeling_lung_srad import LungSoundPipeline

EMBEDDED = "lung-srad-tiny (embedded)"
# A medium checkpoint takes 200 MB, and a free Space has memory for a few only.
MAX_LOADED = 2


class Recognizers:
    """
    Pipelines by the name of their checkpoint, for one thread.

    Args:
        checkpoints (sequence of `str`): folders or ids on the Hub beside the embedded checkpoint.
        preferred (`bool`, *optional*, defaults to `False`): whether the first of them is the default.
    """

    def __init__(self, checkpoints: Sequence[str], preferred: bool = False):
        names = [*dict.fromkeys([*checkpoints, EMBEDDED] if preferred else [EMBEDDED, *checkpoints])]
        self.names = names
        self.default = names[0]
        self._load = lru_cache(MAX_LOADED)(_load)

    def get(self, name: str | None) -> "LungSoundPipeline":
        """
        The pipeline of a checkpoint; the two that were last asked for stay in memory.

        Args:
            name (`str`): one of `names`; `None`, where nothing was chosen, is none of them.

        Raises:
            InputError: where it is not one of `names`, or cannot be loaded.
        """
        if name not in self.names:
            from modeling_lung_srad.errors import InputError

            raise InputError("model", f"{name!r} is not offered here", f"choose {' or '.join(self.names)}")
        return self._load(name)


def _load(name: str) -> "LungSoundPipeline":
    # The import takes seconds, which would delay the first page.
    from modeling_lung_srad import LungSoundPipeline

    return LungSoundPipeline.from_checkpoint(None if name == EMBEDDED else name)
