"""Tests use one thread: small tensors on several threads of a busy machine take forever."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, by pytest or a command
