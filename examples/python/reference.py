"""The float64 references and the error bounds, whose one home is the tests of this checkout."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "tests"))

import compare
from ops.dense_decode.oracle import dense_decode
from ops.sparse_decode.oracle import Selection, sparse_decode

__all__ = ["Selection", "compare", "dense_decode", "sparse_decode"]
