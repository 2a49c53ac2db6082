"""The trained classifier at run time: numpy only, one thread."""

import os

# Before numpy is loaded: its products here are small, and a second thread costs more than it brings, most of all on a
# machine whose other cores are busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
