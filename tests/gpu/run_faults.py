"""Runs a fixed set of random calls on a GPU against the libraries that build_faults.py made: a table of which faults
are caught, and status 1 if one is missed or the library without a fault fails.

    python3 tests/gpu/run_faults.py [--seconds N] [NAME...]

Every library has a process of its own, because a fault may hang or kill the context: a process that does not end in
time counts as caught.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent), str(TESTS.parent / "bindings" / "python")]

from planted_faults import KERNELS_OF_CALLS  # noqa: E402 - found through the lines above

CALLS = 60
NOT_TRIED = 3  # exit status where the library lacks a kernel that the calls need: that says nothing about a fault


def dense_cases() -> list:
    """Calls of dense_decode in bfloat16 with ragged lengths and page numbers outside the cache. Slots that nothing
    attends hold NaN, and what the library writes lies between guard bands.
    """
    from ops.dense_decode.case import Case

    draw = random.Random(0)
    found = []
    for seed in range(CALLS):
        page = draw.choice((64, 64, 64, 16, 1, 128, 48, 80))
        pages = draw.choice((200, 300, 640, 1300)) // page + 1
        capacity = page * pages
        edges = (0, 1, page + 1, 63, 65, capacity - 1, capacity, capacity + page, -1)
        lengths = [draw.randint(capacity // 2, capacity), *draw.choices(edges, k=draw.choice((1, 2, 5)))]
        found.append(
            Case(
                s_q=draw.choice((1, 1, 2, 3)),
                h_q=draw.choice((16, 64, 128)),
                page_size=page,
                num_blocks=pages * len(lengths) + 2,
                max_blocks=pages,
                lengths=tuple(lengths),
                causal=draw.random() < 0.6,
                bad_pages=draw.random() < 0.5,
                plan=(plan := draw.choice(("none", "fresh", "stale"))),
                num_splits=0 if plan == "none" else draw.choice((0, 1, 1, 3, 7)),  # 1: many units a block
                given=("out", "lse"),
                route="torch",
                seed=seed,
                out_dtype=draw.choice((None, None, "float32")),
                batch_invariant=draw.random() < 0.1,
                softmax_scale=draw.choice((None, None, 0.7)),  # large: sums are rescaled often
            )
        )
    # More tiles than blocks run at once, so that a block goes on to a second piece; long pieces that combine waits for.
    many = [draw.randint(1, 300) for _ in range(300)]
    found.append(Case(h_q=64, num_blocks=400, max_blocks=5, lengths=tuple(many), given=("out", "lse"), route="torch"))
    long = {"num_blocks": 1300, "max_blocks": 320, "lengths": (20_000, 19_999, 20_480, 7)}
    found.append(Case(h_q=16, plan="fresh", num_splits=7, given=("out", "lse"), route="torch", **long))
    found = [case.but(batch_invariant=case.batch_invariant and case.num_splits == 0) for case in found]
    windows = (0, 0, 0, 1, 70, 150, 1000)
    return [case.but(window=draw.choice(windows), parted=draw.random() < 0.5) for case in found]


def code_cases() -> list:
    """Calls of dense_decode on caches of codes, in pages that TMA brings and in others; queries are numbers or codes,
    scales of any kind.
    """
    from buffers import PAGES
    from ops.dense_decode.case import Case, Layouts

    draw = random.Random(2)
    found = []
    for seed in range(CALLS):
        page = draw.choice((64, 64, 128, 16, 7, 1))
        pages = draw.choice((200, 640)) // page + 1
        capacity = page * pages
        edges = (0, 1, page + 1, 63, 65, capacity - 1, capacity, capacity + page, -1)
        lengths = [draw.randint(capacity // 2, capacity), *draw.choices(edges, k=draw.choice((1, 2, 5)))]
        kv_format = draw.choice(("v32", "fp8", "fp8"))
        coded = kv_format == "fp8" and draw.random() < 0.5
        scales = (None, 1.0, 0.013, -0.3, float("inf"))
        case = Case(
            s_q=draw.choice((1, 2, 3)),
            h_q=draw.choice((16, 64, 128)),
            page_size=page,
            num_blocks=pages * len(lengths) + 2,
            max_blocks=pages,
            lengths=tuple(lengths),
            causal=draw.random() < 0.6,
            bad_pages=draw.random() < 0.5,
            plan=(plan := draw.choice(("none", "fresh"))),
            num_splits=0 if plan == "none" else draw.choice((0, 1, 3)),
            given=("out", "lse"),
            layouts=Layouts(kv_cache=PAGES),
            route="torch",
            seed=seed,
            out_dtype=draw.choice((None, "float32")),
            softmax_scale=draw.choice((None, None, 0.7)),
            window=draw.choice((0, 0, 70)),
            kv_format=kv_format,
            d_qk=draw.choice((576, 576, 160)) if kv_format == "fp8" else 576,
            descale_k=draw.choice(scales) if kv_format == "fp8" else None,
            q_dtype="float8_e4m3fn" if coded else None,
            descale_q=draw.choice(scales) if coded else None,
            compute=draw.choice(("default", "fp8")) if coded else "default",
        )
        found.append(case)
    codes = {"kv_format": "fp8", "q_dtype": "float8_e4m3fn", "descale_k": -0.3, "layouts": Layouts(kv_cache=PAGES)}
    given = {"given": ("out", "lse"), "route": "torch"}
    return [*found, Case(num_blocks=9, max_blocks=4, lengths=(250, 64), compute="fp8", **codes, **given)]


def sparse_cases() -> list:
    """Calls of sparse_decode, of one cache and of two, whose indices and lengths may be anything."""
    from buffers import Layout, Pages
    from ops.sparse_decode.case import Cache, SparseCase

    draw = random.Random(1)
    found = []
    for seed in range(CALLS):
        kv_format = draw.choice(("bf16", "v32", "model1"))
        batch = draw.choice((1, 2, 5))

        second = draw.choice((kv_format, kv_format, "bf16"))

        def cache(kv_format=kv_format, batch=batch):
            topk = draw.choice((64, 65, 300, 1000, 2048))
            edges = (0, 1, 63, 65, topk - 1, topk, topk + 1, -1, 2**31 - 1)
            layout = Pages(gaps=(1,)) if kv_format != "bf16" else Layout((0, 1, 2, 3), (1, draw.choice((0, 3))))
            lengths = tuple(draw.choices(edges, k=batch))
            return Cache(
                kv_format,
                num_blocks=draw.choice((3, 20)),
                page_size=draw.choice((64, 7, 53)),
                topk=topk,
                lengths=draw.choice((None, lengths)),
                cache_layout=layout,
            )

        case = SparseCase(
            main=cache(),
            extra=draw.choice((None, cache(second))),
            d_qk=512 if kv_format == "model1" else 576,
            batch=batch,
            s_q=draw.choice((1, 2, 3)),
            h_q=draw.choice((5, 64, 128)),
            index_dtype=draw.choice(("int32", "int64")),
            outside=draw.choice((0.0, 0.1, 0.9)),
            sink=draw.choice((None, "some", "wild")),
            given=("out", "lse"),
            route="torch",
            seed=seed,
            out_dtype=draw.choice((None, "float32")),
        )
        found.append(case)
    # More tiles than processors, so that a block goes on to a second one; pairs of CTAs, whole tiles and split ones.
    for kv_format, d_qk in (("v32", 576), ("model1", 512)):
        many = Cache(kv_format, num_blocks=20, topk=130, lengths=tuple(i % 131 for i in range(150)))
        call = SparseCase(main=many, d_qk=d_qk, batch=150, h_q=128, given=("out", "lse"), route="torch", sink="some")
        found += [call.but(s_q=2), call.but(plan="fresh", num_splits=2)]
    return found


CASES = {"dense_decode": dense_cases, "dense_decode of codes": code_cases, "sparse_decode": sparse_cases}


def check_all(backend, kind: str) -> None:
    """Every call of a kind against the oracle, by the library that FLASHMLA_LIBRARY names."""
    calls = importlib.import_module(f"ops.{kind.split(maxsplit=1)[0]}.calls")
    for case in CASES[kind]():
        try:
            calls.check(case, backend)
        except AssertionError as error:
            sys.exit(f"{str(error).splitlines()[0]}: {case.but(layouts=None)}")
    if backend.name != "cpu" and kind == "dense_decode":
        check_bits()
    print("right")


def check_bits() -> None:
    """Of batch-invariant calls, on a GPU."""
    from gpu import invariance

    for check in invariance.OF_SPLIT:
        try:
            check(invariance.SPLIT[0])
        except AssertionError as error:
            sys.exit(f"{check.__name__}: {str(error).splitlines()[0]}")


def verdict(library: Path, kinds: tuple[str, ...], seconds: float) -> tuple[bool, str]:
    """Whether the calls of these kinds found fault with the library, and how."""
    for kind in kinds:
        failed, how = verdict_of_one(library, kind, seconds)
        if failed:
            break
    return failed, how


def verdict_of_one(library: Path, kind: str, seconds: float) -> tuple[bool, str]:
    """Whether the calls of a kind found fault with the library, and how."""
    environment = os.environ | {"FLASHMLA_LIBRARY": str(library)}
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--check", kind],
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True, f"no end within {seconds:g} s"
    if done.returncode == NOT_TRIED:
        sys.exit(f"{library}: {done.stderr.strip()}")
    if done.returncode == 0 and done.stdout.strip().endswith("right"):
        return False, "all calls right"
    return True, ((done.stderr.strip() or done.stdout.strip()).splitlines() or [f"status {done.returncode}"])[-1][:150]


def main() -> int:
    from gpu.build_faults import LIBRARIES, faults

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="faults; all that were built, if none is named")
    parser.add_argument("--seconds", type=float, default=45, help="after which a process hangs")
    parser.add_argument("--check", metavar="KIND", help="run the calls of a kind in this process")
    options = parser.parse_args()
    if options.check:
        sys.modules["jax"] = sys.modules["cupy"] = None  # which would only take time
        import backends
        import flashmla

        there = {row["name"] for row in flashmla.info()["kernels"]}
        if lacking := [name for name in KERNELS_OF_CALLS[options.check] if name not in there]:
            print(f"lacks {', '.join(lacking)}", file=sys.stderr)
            return NOT_TRIED
        backend, why_not = backends.gpu()
        assert backend is not None, why_not
        check_all(backend, options.check)
        return 0
    known = faults()
    built = {name: LIBRARIES / name / "libflashmla.so.2" for name in known}
    wanted = options.names or [name for name in known if built[name].exists()]
    missing = [name for name in ["unmutated", *wanted] if name not in known or not built[name].exists()]
    if missing:
        sys.exit(f"not built (tests/gpu/build_faults.py): {', '.join(missing)}")
    failed, how = verdict(built["unmutated"], known["unmutated"].calls, options.seconds)
    print(f"{'unmutated':48} {'FAILS' if failed else 'passes':8} {how}", flush=True)
    if failed:
        return 1
    missed = 0
    for name in wanted:
        if name == "unmutated":
            continue
        caught, how = verdict(built[name], known[name].calls, options.seconds)
        allowed = not known[name].always
        missed += not caught and not allowed
        word = "caught" if caught else "missed (the hardware may hide it)" if allowed else "MISSED"
        print(f"{name:48} {word:8} {how}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
