"""Imported before NumPy and PyTorch, this leaves their matrix products a thread.

Theirs go on spinning behind each product, and would take the cores from the attention that comes next.
"""

import os

for name in "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS":
    os.environ.setdefault(name, "1")
