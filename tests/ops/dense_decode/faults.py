"""Faults of dense_decode on the CPU, each of which the suite must find."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from buffers import COMPACT, Layout, Pages
from ops.dense_decode.case import Case, Layouts
from ops.dense_decode.oracle import Shard
from ops.dense_decode.relations import ACROSS_THREADS, CHUNK, LONG, MILLION, MIXED, STEP
from planted_faults import Edit, Fault

__all__ = ["FAULTS", "Case", "Layout", "Layouts", "Pages", "Shard"]  # what a drawn case is written with

TESTS = "tests/ops/dense_decode/"
ANY_CALL = TESTS + "test_legal_calls.py::test_any_legal_call_is_the_oracle[cpu]"
CODES = TESTS + "test_fp8.py::test_any_legal_call_is_the_oracle[cpu]"
LIMIT = TESTS + "test_varlen.py::test_more_queries_than_max_seqlen_q_are_not_written[cpu]"
DIGITS = TESTS + "test_options.py::test_float32_out_has_more_digits_than_the_dtype_of_q[cpu-bfloat16]"
ROOT = Path(__file__).parents[3]
CPU = "libflashmla/src/cpu/"
PIECE = "libflashmla/src/attention/cpu_piece.c"
PAGES = "libflashmla/src/ops/dense_decode/cpu.c"
ROWS = "libflashmla/src/attention/cpu.c"
MASK = "libflashmla/src/attention/mask.c"
FOLD = "libflashmla/src/attention/cpu_fold.c"
PARTS = "libflashmla/src/attention/cpu_parts.c"
RUN = "libflashmla/src/attention/cpu_run.c"
ITEMS = "libflashmla/src/attention/cpu_items.c"
KEYS = "libflashmla/src/attention/cpu_keys.c"

OTHER_BITS = "results differ in some bit"
ROWS_OF_PIECE = "  const fm_rows rows = fm_rows_of(attention, tile);\n"
# The call is the first thing that the operation's source of keys has.
PAGE_SIZE = "(*(const fm_dense_decode *const *)worker->source->call)->paged.pages.page_size"
BLOCK_OF_PAGE = "  const int32_t block = paged->block_table["
BOUND = "rows->length, rows->queries.count, token);"
END_OF_PIECE = "  if (last >= 0) end = fm_min64(end, rows.first_item + last * unit);\n"
OUTPUT = "  const fm_output *output = &attention->output;\n"
NARROW = "    elements->narrow[output->dtype](out, values, scale, attention->d_v);\n"


def whole_pages(case: Case) -> Case:
    """A shard, too, may end within a page."""
    case = case.but(shard=None, global_seqlens=())
    return case.but(lengths=tuple(-(-n // case.page_size) * case.page_size if n > 0 else n for n in case.lengths))


def unpadded(case: Case) -> Case:
    return case.but(h_kv=1, layouts=replace(case.layouts, kv_cache=COMPACT))


def same_count(case: Case) -> Case:
    """Every request has max_seqlen_q query tokens."""
    offsets = tuple(case.s_q * i for i in range(case.batch + 1))
    return case.but(cu_seqlens_q=offsets, total_q=offsets[-1])


def capped(case: Case, tokens: int) -> Case:
    """No request is longer than that."""
    return case.but(lengths=tuple(min(n, tokens) for n in case.lengths))


def not_empty(case: Case) -> Case:
    lengths = tuple(max(n, 1) for n in case.lengths)
    return case.but(causal=False, shard=None, global_seqlens=(), lengths=lengths)


INCLUDED = '#include "attention/cpu_piece.h"\n'
SEES_PAGES = Edit(PIECE, INCLUDED, INCLUDED + '#include "ops/dense_decode/dense_decode.h"\n')
STEPS = {"step_template.h": ("portable", "avx2", "avx512"), "step_bf16.h": ("avx512_bf16", "amx")}


def in_every(step: str, before: str, after: str) -> tuple[Edit, ...]:
    """An edit of a step of attention on the CPU, a header that stands in the sources of some instruction sets."""
    edited = Edit(step, before, after).applied((ROOT / CPU / step).read_text())
    return tuple(Edit(f"{CPU}kernels_{isa}.c", f'#include "cpu/{step}"\n', edited) for isa in STEPS[step])


def one(file: str, before: str, after: str) -> tuple[Edit, ...]:
    return (Edit(file, before, after),)


def found_in_any_call(name: str, edits: tuple[Edit, ...], heal, message: str = "lse|out") -> Fault:
    return Fault(name, edits, heal, ANY_CALL, message)


def other_bits(name: str, edits: tuple[Edit, ...], heal) -> Fault:
    """Found where a query token of a longer request comes in chunks."""
    test = TESTS + "test_chunks.py::test_every_size_of_chunks[cpu-causal-8]"
    return Fault(name, edits, heal, test, OTHER_BITS, "ops.dense_decode.relations.check_every_size", CHUNK.but(h_q=8))


def other_bits_across_threads(name: str, edits: tuple[Edit, ...], heal, which: str) -> Fault:
    """Found where one thread or several have the pieces of a tile."""
    test = TESTS + f"test_relations.py::test_one_thread_or_several_have_the_pieces_of_a_tile[cpu-{which}]"
    return Fault(name, edits, heal, test, OTHER_BITS, "ops.dense_decode.relations.check_threads", ACROSS_THREADS[which])


FAULTS = [
    found_in_any_call(
        "page end off by one",
        (
            SEES_PAGES,
            Edit(
                PIECE,
                ROWS_OF_PIECE,
                "  fm_rows rows = fm_rows_of(attention, tile);\n"
                f"  if (rows.length % {PAGE_SIZE} != 0) rows.length++;\n",
            ),
        ),
        whole_pages,
    ),
    found_in_any_call(
        "causal bound off by one",
        one(ROWS, BOUND, BOUND.replace("token)", "token + (token < rows->queries.count - 1))")),
        lambda case: case.but(causal=False),
    ),
    found_in_any_call(
        "head map",
        one(
            ROWS,
            "return rows->kv_head * attention->tiling.group + in_group;",
            "return in_group * attention->work.h_kv + rows->kv_head;",
        ),
        lambda case: case.but(h_kv=1),
    ),
    found_in_any_call(
        "stale last page",
        one(
            PAGES,
            BLOCK_OF_PAGE,
            "  if (page > 0 && (page + 1) * pages->page_size >= rows->length) page--;\n" + BLOCK_OF_PAGE,
        ),
        lambda case: capped(case, case.page_size),
    ),
    found_in_any_call(
        "NaN in V let through",
        (
            *in_every("step_template.h", "s * heads, heads, attended[s]);", "s * heads, heads, count);"),
            *in_every("step_bf16.h", "  if (all_finite(key, PANEL)) return;\n", "  if (token >= 0) return;\n"),
            SEES_PAGES,
            Edit(
                PIECE,
                END_OF_PIECE,
                f"  const int64_t page_size = {PAGE_SIZE};\n"
                "  end = (end + page_size - 1) / page_size * page_size;\n" + END_OF_PIECE,
            ),
        ),
        whole_pages,
        "out: NaN position",
    ),
    found_in_any_call(
        "split weight",
        one(FOLD, "now = exp2(x_lse - largest), sum", "now = 1, sum"),
        lambda case: case.but(plan="fresh", num_splits=1, batch_invariant=False),
    ),
    found_in_any_call(
        "last piece of a tile of one thread",
        one(PARTS, "if (unit != last) fm_attend", "if (unit != last && last >= 0) fm_attend"),
        lambda case: case.but(plan="fresh", num_splits=1, batch_invariant=False),
    ),
    other_bits_across_threads(
        "digits of what a thread folds",  # which are not those of partial slots
        one(
            FOLD,
            "fm_fold_row(target->elements, values, lse, target->row, result.lse / M_LN2, d_v);",
            "fm_fold_row(target->elements, values, lse, target->row, (float)(result.lse / M_LN2), d_v);",
        ),
        lambda case: case.but(num_splits=1),
        "uneven",
    ),
    other_bits_across_threads(
        "a tile behind an empty part is folded",
        one(PARTS, "is_tile && cuts[first + 1].unit > 0;", "is_tile && cuts[first + 1].tile == begin.tile;"),
        lambda case: case.but(sink=None),
        "empty-parts",
    ),
    other_bits_across_threads(
        "parts behind the tiles of one thread",
        one(RUN, "before = tile ? 0 : job->kept;", "before = 0;"),
        lambda case: case.but(num_splits=1),
        "uneven",
    ),
    found_in_any_call(
        "slot of a piece that is not a tile's first",
        one(
            PARTS, "fm_partial_slot(&attention->tiling, v, v == part);", "fm_partial_slot(&attention->tiling, v, true);"
        ),
        lambda case: case.but(plan="fresh", num_splits=3, batch_invariant=False),
    ),
    found_in_any_call(
        "lse base",
        one(ROWS, "if (output->lse_base2)", "if (!output->lse_base2)"),
        lambda case: case.but(route="c", given=()),
        "lse",
    ),
    found_in_any_call(
        "empty row", one(ROWS, OUTPUT, OUTPUT + "  if (values == NULL) return;\n"), not_empty, r"(lse|out): .* position"
    ),
    found_in_any_call(
        "stride ignored",
        one(
            "libflashmla/src/formats/pages.c",
            "pages->columns : view->stride[1] * element_bytes;",
            "pages->columns : (view->stride[1] < pages->columns ? view->stride[1] : pages->columns) * element_bytes;",
        ),
        unpadded,
    ),
    found_in_any_call(
        "scales of the first token of a page",
        one(
            PAGES,
            "fm_token_in(pages, walk->page, walk->in_page), walk->room",
            "(fm_token){fm_token_in(pages, walk->page, walk->in_page).row, "
            "fm_token_in(pages, walk->page, 0).scales}, walk->room",
        ),
        lambda case: capped(case, 1),
    ),
    found_in_any_call(
        "length not clamped",  # to the table's capacity; reads stay inside the table
        (
            SEES_PAGES,
            Edit(
                PIECE,
                ROWS_OF_PIECE,
                "  fm_rows rows = fm_rows_of(attention, tile);\n"
                "  const fm_work *work = &attention->work;\n"
                f"  const int64_t most = work->capacity + {PAGE_SIZE};\n"
                "  rows.length = fm_clamp64(work->lengths[rows.request], 0, most);\n",
            ),
            Edit(PAGES, BLOCK_OF_PAGE, "  if (page >= paged->max_blocks) return NULL;\n" + BLOCK_OF_PAGE),
        ),
        lambda case: capped(case, case.capacity),
    ),
    found_in_any_call(
        "causal bound by max_seqlen_q",
        one(ROWS, BOUND, BOUND.replace("rows->queries.count", "attention->work.s_q")),
        same_count,
    ),
    found_in_any_call(
        "a token before the window",
        one(PIECE, "fm_window_begin(&attention->mask, end));", "fm_window_begin(&attention->mask, end - 1));"),
        lambda case: case.but(window=0),
    ),
    Fault(
        "units of the last query token's window",
        one(
            "libflashmla/src/schedule/queries.c",
            "request) - others - work->window",
            "request) - 0 * others - work->window",
        ),
        lambda case: case.but(s_q=1),
        TESTS + "test_window.py::test_windows_of_any_length[cpu-plan0-True-28]",
        case=LONG.but(window=28),
    ),
    Fault(
        "max_seqlen_q is no limit",  # writes stay inside the request's last tile
        one(
            ROWS,
            "  fm_rows rows = {\n      .request = request,\n      .kv_head = at.kv_head,\n"
            "      .queries = fm_query_range_of(&attention->work, request),\n",
            "  fm_work unlimited = attention->work;\n  if (unlimited.varlen) unlimited.s_q = unlimited.total_q;\n"
            "  fm_rows rows = {\n      .request = request,\n      .kv_head = at.kv_head,\n"
            "      .queries = fm_query_range_of(&unlimited, request),\n",
        ),
        lambda case: case.but(s_q=max(case.s_q, case.total_q)),
        LIMIT,
        case=MIXED.but(s_q=2),
    ),
    found_in_any_call(
        "rank",
        one(MASK, "before = mask->cp_rank * interleave;", "before = 0 * interleave;"),
        lambda case: case.but(shard=case.shard._replace(rank=0)),
    ),
    found_in_any_call(
        "interleave",
        one(MASK, "interleave = mask->cp_interleave, round", "interleave = 1, round"),
        lambda case: case.but(shard=case.shard._replace(interleave=1)),
    ),
    found_in_any_call(
        "causal bound of a shard",  # on the shard's own tokens
        one(
            MASK,
            "return fm_min64(length, local_tokens(mask, global - masked));",
            "return fm_max64(fm_min64(length, local_tokens(mask, global)) - masked, 0);",
        ),
        lambda case: case.but(causal=False),
    ),
    found_in_any_call(
        "lse of an empty row",
        one(MASK, "(flags & FLASHMLA_EMPTY_LSE_MINUS) != 0", "flags == UINT32_MAX"),
        lambda case: case.but(empty_lse_minus=False),
        r"lse: .inf position",
    ),
    Fault(
        "float32 out",  # rounded to the dtype of q first
        one(
            ROWS,
            NARROW,
            "  {\n"
            "    float rounded[FM_CPU_MOST_D_V] __attribute__((aligned(64)));\n"
            "    elements->narrow[FM_BF16](rounded, values, scale, attention->d_v);\n"
            "    elements->widen[FM_BF16]((float *)out, rounded, attention->d_v);\n"
            "  }\n",
        ),
        lambda case: capped(case, 1),
        DIGITS,
        "out: 0 elements have more digits",
        "ops.dense_decode.relations.check_digits",
        STEP.but(out_dtype="float32"),
    ),
    Fault(
        "long sums in float32",
        one(PIECE, "STRETCH_OF_FLOATS = 1024", "STRETCH_OF_FLOATS = 1 << 30"),
        lambda case: case.but(lengths=(64 * 64,)),
        TESTS + "test_cpu_long_pieces.py::test_errors_do_not_grow_with_the_length[avx2]",
        check="ops.dense_decode.relations.check_repeated",
        case=MILLION,
    ),
    Fault(
        "a stretch forgotten",
        one(PIECE, "total->weight * before + sums->weight * now;", "sums->weight * now;"),
        lambda case: case.but(num_blocks=8, lengths=(64 * 8,)),
        TESTS + "test_cpu_long_pieces.py::test_pieces_of_several_stretches_are_right[avx2-3-float32]",
        check="ops.dense_decode.relations.check_repeated",
        case=MILLION.but(lengths=(1 << 15,)),
    ),
    other_bits(
        "order of folds",  # pieces are joined without nodes where a tile is cut
        one(ITEMS, "== 0 ? FM_NODE_PIECES : 1;", "== 0 ? 1 : 1;"),
        lambda case: capped(case, 8 * 512),
    ),
    other_bits(
        "node of seven pieces",  # where a tile is not cut
        (
            Edit(ITEMS, "piece += FM_NODE_PIECES)", "piece += FM_NODE_PIECES - 1)"),
            Edit(ITEMS, "fm_min64(piece + FM_NODE_PIECES, pieces)", "fm_min64(piece + FM_NODE_PIECES - 1, pieces)"),
        ),
        lambda case: capped(case, 7 * 512),
    ),
    other_bits(
        "rows of several tokens",  # in a tile, which then does its sums in another order
        one(
            "libflashmla/src/attention/cpu_run.c",
            "own_tiles ? group : work->s_q * group;",
            "own_tiles && work->window > 0 ? group : work->s_q * group;",
        ),
        lambda case: case.but(h_q=128),
    ),
    found_in_any_call(
        "RoPE columns of the latent part",
        one(PIECE, "    memcpy(behind, rope,", "    memcpy(behind, latent,"),
        lambda case: case.but(parted=False),
    ),
    Fault(
        "sign of the one scale of a cache",
        one(KEYS, "copysignf(1, (float)keys)", "1"),
        lambda case: case.but(descale_k=None),
        CODES,
    ),
    Fault(
        "size of the one scale of a cache",  # is left out of values
        one(KEYS, "(float)(fabs(keys) * finite)", "1"),
        lambda case: case.but(descale_k=None),
        CODES,
    ),
    Fault(
        "scale of queries",
        one(KEYS, "fabs(keys) * fabs(queries) * finite", "fabs(keys) * finite"),
        lambda case: case.but(descale_q=None),
        CODES,
    ),
]
