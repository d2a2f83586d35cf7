"""`python -m flashmla info`: versions, ABI, driver or why not, and the kernel table; `tune`: a tuning file."""

from __future__ import annotations

import argparse
import signal
import sys

from flashmla import _tune
from flashmla._info import report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flashmla", description="Multi-head Latent Attention kernels.")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")

    def command(name: str, words: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=words, description=words)

    command("info", "versions, library, driver or why there is none, tuning file, kernel table")
    _tune.add_arguments(
        command("tune", "measures which kernels and cuts are fastest on this machine, and writes a tuning file")
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the reader of `info | head` has seen enough: no traceback
    if arguments.command == "tune":
        return _tune.main(arguments)
    print(report())
    return 0


if __name__ == "__main__":
    sys.exit(main())
