"""The processes of `accelerate launch`, where the command was started by it."""

import os
from dataclasses import dataclass
from datetime import timedelta

from modeling_lung_srad.errors import InputError

LONGEST_WAIT = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """
    This process among those that work together.

    Args:
        index (`int`): its number, from 0 on.
        count (`int`): how many there are.
    """

    index: int
    count: int

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def total(self, value: int) -> int:
        """Waits for all processes and adds up what each of them gives."""
        if self.count == 1:
            return value
        from accelerate.utils import gather_object

        return sum(gather_object([value]))


def join_processes() -> Processes:
    """Joins the processes that `accelerate launch` or `torchrun` started; one alone where neither did."""
    count = os.environ.get("WORLD_SIZE") or "1"
    if not count.isdecimal():
        raise InputError("WORLD_SIZE", f"{count!r} is not a number of processes", "unset it, or use accelerate launch")
    if int(count) <= 1:
        return Processes(0, 1)
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
    return Processes(state.process_index, state.num_processes)


def leave_processes(processes: Processes) -> None:
    """Ends what [`join_processes`] began; without it the threads between them may abort the interpreter's end."""
    if processes.count > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()
