"""A program: decode calls run while lengths, query offsets, page numbers and the schedule they read are overwritten.

Results are unspecified then, but every call must end, fault nowhere, and leave the next call right. Prints "right after
changes" at the end; a hang or a fault would hold or end this process, so its caller gives it a time.
"""

from __future__ import annotations

import sys

import torch

import flashmla

CALLS, CHANGES_A_CALL, VALUES = 200, 6, 32
PAGE, PAGES, TABLE_PAGES = 64, 400, 40


def garbage(shape: tuple[int, ...], low: int, high: int, seed: int) -> torch.Tensor:
    """VALUES tensors in one, a third of whose entries are zeros or extreme."""
    made = torch.Generator(device="cuda").manual_seed(seed)
    values = torch.randint(low, high, (VALUES, *shape), dtype=torch.int32, device="cuda", generator=made)
    odd = torch.tensor([0, 0, 1, -1, high, -(2**31), 2**31 - 1], dtype=torch.int32, device="cuda")
    drawn = torch.randint(0, 21, values.shape, device="cuda", generator=made)
    return torch.where(drawn < len(odd), odd[drawn.clamp(max=len(odd) - 1)], values)


def change_while_running(
    batch: int, s_q: int, h_q: int, *, varlen: bool, changed: str, table_pages: int = TABLE_PAGES, **options: bool
) -> None:
    """One shape; `changed`: "lengths", "offsets", "table" or "schedule"."""
    made = torch.Generator(device="cuda").manual_seed(batch * h_q + s_q)
    kv_cache = torch.randn(PAGES, PAGE, 1, 576, device="cuda", generator=made).bfloat16()
    tokens = (batch * s_q,) if varlen else (batch, s_q)
    q = torch.randn(*tokens, h_q, 576, device="cuda", generator=made).bfloat16()
    table = torch.randint(0, PAGES, (batch, table_pages), dtype=torch.int32, device="cuda", generator=made)
    lengths = torch.randint(0, PAGE * table_pages, (batch,), dtype=torch.int32, device="cuda", generator=made)
    options["causal"] = True
    if varlen:
        offsets = torch.arange(0, batch * s_q + 1, s_q, dtype=torch.int32, device="cuda")
        options |= {"cu_seqlens_q": offsets, "max_seqlen_q": s_q}
    inputs = (q, kv_cache, table, lengths)
    size = flashmla.plan_decode_size(*inputs, **options)
    buffer = torch.empty(size, dtype=torch.uint8, device="cuda")

    def decode(plan: flashmla.Plan) -> tuple[torch.Tensor, torch.Tensor]:
        return flashmla.dense_decode(*inputs, plan=plan, **options)

    plan = flashmla.plan_decode(*inputs, buffer=buffer, **options)
    wanted = decode(plan)
    victim, high = {
        "lengths": (lengths, PAGE * table_pages),
        "offsets": (offsets if varlen else lengths, batch * s_q + 1),
        "table": (table, PAGES),
        "schedule": (buffer[: size // 4 * 4].view(torch.int32), 2 * table_pages),
    }[changed]
    kept, values = victim.clone(), garbage(tuple(victim.shape), 0, high, 7)
    values[::2] = kept  # back and forth between what was planned and anything
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    for call in range(CALLS):
        decode(plan)
        with torch.cuda.stream(side):
            for change in range(CHANGES_A_CALL):
                victim.copy_(values[(call * CHANGES_A_CALL + change) % VALUES], non_blocking=True)
    torch.cuda.synchronize()
    victim.copy_(kept)
    again = decode(flashmla.plan_decode(*inputs, buffer=buffer, **options))
    assert all(torch.equal(a, b) for a, b in zip(again, wanted, strict=True)), (batch, s_q, h_q, varlen, changed)


def main() -> None:
    """Every kind of tile: alone, in step, a cluster; every value."""
    for batch, s_q, h_q in ((24, 1, 128), (40, 1, 16), (6, 3, 128), (3, 8, 64)):
        for varlen in (False, True):
            for changed in ("lengths", "table", "schedule", *(("offsets",) if varlen else ())):
                change_while_running(batch, s_q, h_q, varlen=varlen, changed=changed)
                print(batch, s_q, h_q, "varlen" if varlen else "", changed, flush=True)
    for batch, s_q, h_q in ((3, 1, 128), (30, 1, 16), (2, 3, 64)):  # of several nodes
        for changed in ("lengths", "schedule"):
            change_while_running(batch, s_q, h_q, varlen=False, changed=changed, table_pages=900, batch_invariant=True)
            print(batch, s_q, h_q, "batch invariant", changed, flush=True)
    print("right after changes")


if __name__ == "__main__":
    sys.exit(main())
