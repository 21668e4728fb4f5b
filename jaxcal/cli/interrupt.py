"""Ctrl-C is answered within two seconds, whatever the devices are at.

Python hears of an interrupt between two of its own steps, and so not while it
waits for a program to be compiled or for a device. A thread of its own hears of
it at once.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import sys
import threading
import time

STATUS = 130
MESSAGE = "jaxcal: interrupted; the same command goes on from here."
_PATIENCE = 1.5  # seconds for an end in good order


@contextlib.contextmanager
def answered(leave: Callable[[int], None]) -> Iterator[None]:
  """Ends the process soon after an interrupt, if it does not end by itself.

  What is on disk by then is whole, as after any other kill. Only for the main
  thread of a process of its own.

  Args:
    leave: Function called with the exit status before that end.
  """
  heard, told = os.pipe()
  os.set_blocking(told, False)
  signal.set_wakeup_fd(told, warn_on_full_buffer=False)
  threading.Thread(target=_end, args=(heard, leave), daemon=True).start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(-1)


def _end(heard: int, leave: Callable[[int], None]) -> None:
  while os.read(heard, 1) != bytes([signal.SIGINT]):
    pass
  time.sleep(_PATIENCE)
  print(f"\n{MESSAGE} A program was being compiled or was running on a device, "
        "which cannot be stopped half way.", file=sys.stderr, flush=True)
  leave(STATUS)
  os._exit(STATUS)
