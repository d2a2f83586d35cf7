"""`python -m flashmla info`: versions, ABI, driver or why not, and the kernel table."""

from __future__ import annotations

import argparse
import signal

from flashmla._info import report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flashmla", description="Multi-head Latent Attention kernels.")
    commands = parser.add_subparsers(required=True, metavar="command")
    commands.add_parser("info", help="versions, library, driver or why there is none, kernel table")
    parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the reader of `info | head` has seen enough: no traceback
    print(report())


if __name__ == "__main__":
    main()
