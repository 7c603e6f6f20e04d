"""Which errors interrupt more than the code in which they are raised."""

import signal
import traceback


def is_interrupt(error: BaseException) -> bool:
    """Return whether an error is Ctrl-C, or what a signal handler has raised, wherever the main thread was."""
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()} - {None}
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return not isinstance(error, Exception) or any(frame.f_code in handlers for frame in frames)
