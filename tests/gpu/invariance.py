"""Batch-invariant calls of every kind of cut, whose rows must have the same bits: torch tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch

import flashmla
import schedule
from ops.dense_decode import oracle

PAGES, PAGE = 700, 64


@dataclass(frozen=True)
class Kind:
    """What calls have in common."""

    h_q: int = 128
    d_qk: int = 576
    dtype: torch.dtype = torch.bfloat16
    out_dtype: str | None = None
    page: int = PAGE
    kv_format: str = "bf16"
    window: int = 0

    @property
    def d_v(self) -> int:
        return oracle.D_V[self.d_qk]

    @property
    def quantum(self) -> int:
        """Tokens of the first pieces; from the eighth on they are twice as long."""
        limits = schedule.hopper(1)
        return limits.unit * (limits.piece_units_few if self.h_q <= limits.few_heads else limits.piece_units)


def edges(quantum: int) -> tuple[int, ...]:
    """Lengths at edges of pieces, of nodes (8 pieces: 8 quanta, then 16 more) and of units."""
    beyond = (n * quantum + more for n in (1, 2, 7, 8, 10, 24, 40) for more in (0, 1))
    return 1, 64, *beyond, int(3.4 * quantum), int(14.6 * quantum)


SPLIT = (
    Kind(),
    Kind(h_q=16),
    Kind(h_q=64, out_dtype="float32"),
    Kind(dtype=torch.float16, page=16),
    Kind(d_qk=320),
    Kind(d_qk=160, page=16),
    Kind(h_q=16, d_qk=512, page=128, out_dtype="float32"),
)
# Of which a slot is so small that there is room for nodes of whatever is cut
SMALL = (Kind(h_q=16, d_qk=160, dtype=torch.float16),)
# Calls that attend every request whole
WHOLE = (
    Kind(kv_format="v32"),
    Kind(h_q=16, d_qk=512, kv_format="model1", page=16, out_dtype="float32"),
    Kind(h_q=64, d_qk=320, kv_format="fp8"),
    Kind(h_q=32, d_qk=160, kv_format="fp8"),
    Kind(window=1000),
    Kind(h_q=16, dtype=torch.float16, window=3001, page=7),
    Kind(h_q=16, kv_format="fp8", page=1, window=130),
)


class Requests:
    """Requests of up to `capacity` tokens, with queries and pages of their own numbers."""

    def __init__(self, kind: Kind, lengths: tuple[int, ...], capacity: int, s_q: int = 1, seed: int = 0) -> None:
        made = torch.Generator(device="cuda").manual_seed(seed)
        self.kind, self.s_q = kind, s_q
        blocks = PAGES * PAGE // kind.page
        shape = (blocks, kind.page, 1, kind.d_qk)
        self.cache = torch.randn(shape, device="cuda", generator=made).to(kind.dtype)
        if kind.kv_format != "bf16":
            rows = self.cache.view(-1, kind.d_qk)
            self.cache = flashmla.quantize_kv(rows, kv_format=kind.kv_format, page_size=kind.page)
        shape = (len(lengths), s_q, kind.h_q, kind.d_qk)
        self.q = torch.randn(shape, device="cuda", generator=made).to(kind.dtype)
        shape = (len(lengths), -(-capacity // kind.page))
        self.table = torch.randint(0, blocks, shape, dtype=torch.int32, device="cuda", generator=made)
        self.lengths = torch.tensor(lengths, dtype=torch.int32, device="cuda")

    def level(self, picks) -> int:
        """What a plan for some requests stores of cut tiles."""
        arguments = self.q[picks], self.cache, self.table[picks].contiguous(), self.lengths[picks]
        options = {"causal": True, "batch_invariant": True}
        size = flashmla.plan_decode_size(*arguments, **options)
        buffer = torch.empty(size, dtype=torch.uint8, device="cuda")
        flashmla.plan_decode(*arguments, **options, buffer=buffer)
        limits = schedule.hopper(torch.cuda.get_device_properties(0).multi_processor_count)
        shape = {"batch": len(picks), "s_q": self.s_q, "h_q": self.kind.h_q, "h_kv": 1, "d_v": self.kind.d_v}
        shape |= {"max_blocks": self.table.shape[1], "page_size": self.kind.page, "num_splits": 0}
        return schedule.level(buffer.cpu().numpy(), schedule.tile(limits, **shape, batch_invariant=True))

    @property
    def planned(self) -> dict:
        """Options that plans have, too."""
        shared = {"kv_format": self.kind.kv_format, "window": self.kind.window}
        return {"causal": True, "batch_invariant": True} | shared

    def decode(self, picks=None, tokens=slice(None), hidden: int = 0, **options):
        """Rows of some requests and of some of their query tokens, behind which `hidden` tokens of the cache lie."""
        picks = list(range(len(self.lengths))) if picks is None else picks
        q = self.q[picks][:, tokens].contiguous()
        options |= {"out_dtype": self.kind.out_dtype} | self.planned
        lengths = self.lengths[picks] - hidden
        return flashmla.dense_decode(q, self.cache, self.table[picks].contiguous(), lengths, **options)


def same(found, wanted, what: object) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)), what


def check_batches(kind: Kind) -> None:
    """Alone a request is cut among all blocks, in a crowd hardly any is."""
    lengths = edges(kind.quantum)
    requests = Requests(kind, lengths * 8, 90_000)
    out, lse = requests.decode()
    assert torch.isfinite(out).all()
    for i, length in enumerate(lengths):
        same(requests.decode([i]), (out[i : i + 1], lse[i : i + 1]), (kind, "alone", length))
    few = [13, 7, 27, 12]
    same(requests.decode(few), (out[few], lse[few]), (kind, "few"))


def check_chunks(kind: Kind) -> None:
    """A query token has the same bits whatever tokens are beside it."""
    chunk, quantum = 5, kind.quantum
    requests = Requests(kind, (8 * quantum + 5, 24 * quantum + 5, quantum + 2, 5), 60_000, s_q=chunk, seed=1)
    out, lse = requests.decode()
    for first, end in ((0, 1), (0, 2), (1, 3), (4, 5), (2, 5)):
        tokens = slice(first, end)
        found = requests.decode(tokens=tokens, hidden=chunk - end)
        same(found, (out[:, tokens], lse[..., tokens]), (kind, "tokens", first, end))


def check_levels(kind: Kind) -> None:
    """Requests so long and so many that nothing is stored, beside some of them, of which pieces or nodes are."""
    lengths = (1_000_001, 900_000, 786_433, 1_048_576) * 10
    requests = Requests(kind, lengths, 1 << 20, seed=2)
    assert requests.level(range(len(lengths))) == 2
    assert requests.level([0]) < 2
    out, lse = requests.decode()
    for picks in ([0], [2, 3], [1, 0, 3, 2, 5]):
        same(requests.decode(picks), (out[picks], lse[picks]), (kind, "long", picks))


def check_stale_plans(kind: Kind) -> None:
    """A plan for other lengths with as many pieces gives the same bits; for any lengths right rows."""
    quantum = kind.quantum
    lengths = [int(x * quantum) for x in (14.6, 9.7, 0.05, 23.9)]
    requests = Requests(kind, lengths, 60_000, seed=3)
    arguments = (requests.q, requests.cache, requests.table, requests.lengths)
    plan = flashmla.plan_decode(*arguments, **requests.planned)
    requests.lengths += torch.tensor([0.15, -0.5, 0.9, 0.05], device="cuda").mul(quantum).int()
    same(requests.decode(plan=plan), requests.decode(), (kind, "a plan of as many pieces"))
    for lengths in ((60_000, 1, 0, quantum), (0, 60_000, 60_000, 8 * quantum + 1)):
        requests.lengths.copy_(torch.tensor(lengths, dtype=torch.int32, device="cuda"))
        for a, b in zip(requests.decode(plan=plan), requests.decode(), strict=True):
            torch.testing.assert_close(a.float(), b.float(), rtol=2e-2, atol=2e-3)


OF_WHOLE = (check_batches, check_chunks, check_stale_plans)
OF_SPLIT = (*OF_WHOLE, check_levels)
