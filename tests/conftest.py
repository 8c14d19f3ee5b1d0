"""One thread for each test process: pytest runs two of them, and spinning threads starve others."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in subprocesses
