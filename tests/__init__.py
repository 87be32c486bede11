"""Tests use one thread, because operations on small tensors are very slow with several threads on a
busy machine.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, by pytest or a command
