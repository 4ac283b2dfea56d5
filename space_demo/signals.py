"""How the server learns that it is to end."""

import signal
import threading


def stopped_by_signals() -> threading.Event:
    """
    An event that is set by Ctrl+C and by a request to terminate, instead of an exception.

    An exception would come at any place, such as between the start of a thread and its being known to be running.
    """
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return stopped
