"""`python -m flashmla tune`: measures what is fastest on this machine, and writes a tuning file."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from flashmla import _tuning
from flashmla._tune_cases import DEFAULT, USAGE, Case, by_shape, of_profile, parsed
from flashmla._tune_device import torch_for
from flashmla._tune_problem import Caches
from flashmla._tune_ranges import entries
from flashmla._tune_search import Choice, Found, Search
from flashmla.errors import FlashMLAError, UnsupportedError

_BAR = 30  # letters
# Variables with which no time is that of a choice, and why
_SPOILS = {
    "FLASHMLA_FORCE_KERNEL": "every candidate would be that kernel",
    "FLASHMLA_CHECK": "every time would be that of the checks, too",
}
NOTHING = 2  # exit status: there is nothing to tune, or not as asked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--case", action="append", default=[], metavar="B,S_Q,H_Q,TOKENS[,NAME=VALUE]",
        help=f"a shape: {USAGE}; with topk of sparse_decode, else of dense_decode. May be given several times",
    )  # fmt: skip
    parser.add_argument("--profile", metavar="FILE", help="the shapes of a profile: report.save('FILE.json')")
    parser.add_argument("--output", default="flashmla.tuning", metavar="FILE", help="is written; flashmla.tuning")
    parser.add_argument("--device", type=int, default=0, help="number of the GPU; 0")


def _cases(arguments: argparse.Namespace) -> list[Case]:
    given = [parsed(text) for text in arguments.case]
    if arguments.profile is not None:
        given += of_profile(arguments.profile)
    elif not given:
        given = [parsed(text) for text in DEFAULT]
    return given


class _Progress:
    """A bar in a terminal; elsewhere a line for each shape is all."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._begin = total, 0, time.monotonic()
        self._live = sys.stdout.isatty()

    def show(self, words: str) -> None:
        if self._live:
            full = _BAR * self._done // self._total
            bar = "#" * full + "." * (_BAR - full)
            print(f"\r\033[K[{bar}] {self._done}/{self._total} {words}", end="", flush=True)

    def tell(self, line: str) -> None:
        print(f"\r\033[K{line}" if self._live else line, flush=True)
        self._done += 1


def described(found: Found) -> str:
    """A shape and what was found, for people."""
    words = f"{found.shape.words}: {found.rule_us:.1f} us"
    if found.choice:
        return f"{words} -> {found.us:.1f} us ({1 - found.us / found.rule_us:.1%} less) with {_named(found.choice)}"
    choice, share = found.nearest
    return f"{words}, kept; {found.tried} tried, nearest {share:.3f}: {_named(choice)}"


def _named(choice: Choice) -> str:
    return ", ".join(f"{name} {value}" for name, value in choice) or "none"


def tune(torch: Any, cases: list[Case], device_id: int) -> list[Found]:
    """What is fastest for each shape; tells it."""
    caches, shapes = Caches(torch), by_shape(cases)
    progress, made = _Progress(len(shapes)), []
    for shape, tokens in shapes.items():
        progress.show(shape.words)
        try:
            made.append(Search(caches, device_id, shape, tokens).run())
        except KeyboardInterrupt:
            progress.tell("interrupted: only what was found so far counts")
            break
        except (FlashMLAError, RuntimeError) as error:  # PyTorch's, too: what was found before is not lost
            progress.tell(f"{shape.words}: left out, {error}")
        else:
            progress.tell(described(made[-1]))
    return made


def _refuse_settings() -> None:
    for name, why in _SPOILS.items():
        if os.environ.get(name, "") not in {"", "0"}:
            raise UnsupportedError(f"{name} is set: {why}")


def _try_output(output: Path, device_id: int, cases: list[Case]) -> None:
    """Writes a file with the shapes there and removes it, so that what is wrong with one of them or with the place is
    told before anything is measured. A file that is there stays as it is.
    """
    trial = output.with_name(f"{output.name}.trial") if output.is_file() else output
    _tuning.save(trial, device_id, [shape.entry() for shape in by_shape(cases)])
    trial.unlink(missing_ok=True)


def main(arguments: argparse.Namespace) -> int:
    path, begin = Path(arguments.output), time.monotonic()
    try:
        _refuse_settings()
        cases = _cases(arguments)
        if not cases:
            raise UnsupportedError("the profile has no calls of dense_decode or sparse_decode on a GPU to tune")
        torch = torch_for(arguments.device)
        _try_output(path, arguments.device, cases)
        made = tune(torch, cases, arguments.device)
        if not made:
            raise UnsupportedError(f"nothing was measured, and {path} is not written")
        _tuning.save(path, arguments.device, entries(made))
        _tuning.load_tuning(path)
    except FlashMLAError as error:
        print(error, file=sys.stderr)
        return NOTHING
    faster = sum(found.choice != () for found in made)
    print(f"{faster} of {len(made)} shapes are faster, the others stay as they are; {time.monotonic() - begin:.0f} s")
    print(f"FLASHMLA_TUNING={path} makes programs on this machine use it")
    return 0
