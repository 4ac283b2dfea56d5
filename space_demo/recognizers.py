"""The checkpoints to choose from, loaded when they are first asked for."""

from collections import OrderedDict
from collections.abc import Sequence
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
        self._loaded: OrderedDict[str, LungSoundPipeline] = OrderedDict()

    def get(self, name: str) -> "LungSoundPipeline":
        """
        The pipeline of a checkpoint; the two that were last asked for stay in memory.

        Args:
            name (`str`): one of `names`.

        Raises:
            InputError: where it cannot be loaded.
            KeyError: where it is not one of `names`.
        """
        # The import takes seconds, which would delay the first page.
        from modeling_lung_srad import LungSoundPipeline

        if name not in self.names:
            raise KeyError(name)
        if name not in self._loaded:
            self._loaded[name] = LungSoundPipeline.from_checkpoint(None if name == EMBEDDED else name)
        self._loaded.move_to_end(name)
        while len(self._loaded) > MAX_LOADED:
            self._loaded.popitem(last=False)
        return self._loaded[name]
