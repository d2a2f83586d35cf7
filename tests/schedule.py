"""Tiles and the schedule in NumPy, from their definition in libflashmla/src/schedule/schedule.h (fm_tiling, fm_cut).

What the host scheduler, the device scheduler and the launcher are compared with; shares no code with them. It lists
every tile with its cost, dead ones with none, and finds positions in that list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np

import build
from dsl_kernels.core.schedule_params import CONSTANTS as FACTS
from dsl_kernels.core.schedule_params import PARTIAL_BYTES, ROWS

INT32_MAX = 2**31 - 1
MAX_SLOTS = FACTS["MAX_SLOTS"]
SMALL_PIECES, NODE_PIECES = 8, 8
BUDGETS = 64  # of parts of batch-invariant work, that are tried
CAP_BYTES = 64 << 20  # and twice the rows of results in float32


@dataclass(frozen=True)
class Limits:
    """What a backend gives the tiling: fm_limits."""

    block_rows: int
    max_cluster: int
    workers: int
    start_overhead: int
    split_overhead: int
    piece_units: int
    unit: int = 64
    whole_units: int = 0
    join_overhead: int = 0
    unit_rows: int = 0  # partial rows that take as long as a unit; 0: only whole_units say which tiles stay whole
    start_overhead_alone: int | None = None  # where a request has one row block, if it differs
    piece_units_few: int | None = None  # where a KV head has at most `few_heads`, if it differs
    piece_overhead: int = 0
    piece_overhead_few: int = 0
    few_heads: int = 0
    partial_bytes: int = 4
    clusters: int | None = None  # of max_cluster blocks that run at once, where that is not workers / max_cluster
    # batch invariant
    carries: int = 0
    max_slots: int = 2**30
    partial_facts: int = 2
    stripe_rows: int = 1
    box_rows: int = 1  # rows of a page that are fetched at once; where fewer lie together, each is fetched by itself

    def gathers(self, page_size: int, batch_invariant: bool) -> bool:
        """Whether rows are fetched one by one, which row blocks do not share."""
        return page_size % self.box_rows != 0 and not batch_invariant


@cache
def constants(source: str) -> dict[str, int]:
    """The numbers that a source of the C core has names for, so that they stand there alone."""
    text = (build.SOURCE / source).read_text()
    return {name: int(value) for name, value in re.findall(r"^(?:#define| ) (\w+)(?: =)? (\d+)\b", text, re.MULTILINE)}


def hopper(processors: int, clusters: int | None = None) -> Limits:
    """The limits of dense_decode on a GPU."""
    found = constants("ops/dense_decode/cuda.c")
    return Limits(
        block_rows=ROWS,
        max_cluster=found["LARGEST_CLUSTER"],
        workers=processors,
        start_overhead=found["START_OVERHEAD"],
        start_overhead_alone=found["START_OVERHEAD_ALONE"],
        split_overhead=found["SPLIT_OVERHEAD"],
        piece_units=found["PIECE_UNITS"],
        piece_units_few=found["PIECE_UNITS_FEW"],
        piece_overhead=found["PIECE_OVERHEAD"],
        piece_overhead_few=found["PIECE_OVERHEAD_FEW"],
        few_heads=found["FEW_HEADS"],
        whole_units=found["WHOLE_UNITS"],
        partial_bytes=PARTIAL_BYTES,
        clusters=clusters,
        carries=found["CARRIES"],
        max_slots=MAX_SLOTS,
        stripe_rows=FACTS["STRIPE"],
        box_rows=found["BOX_ROWS"],
        partial_facts=FACTS["PARTIAL_FACTS"],
    )


def cpu() -> Limits:
    """Those on the CPU, for tables long enough for all workers and at least as many query rows as a block has."""
    found = constants("attention/cpu_run.c")
    return Limits(
        block_rows=constants("cpu/isa.h")["FM_CPU_MOST_ROWS"],
        max_cluster=1,
        workers=found["MOST_PARTS"],
        start_overhead=found["START_OVERHEAD"],
        split_overhead=found["SPLIT_OVERHEAD"],
        unit=found["UNIT"],
        piece_units=found["TOKENS_PER_PART"] // found["UNIT"],
    )


@dataclass(frozen=True)
class Tiling:
    """How the query rows of a call become tiles, and into how many parts the work is cut."""

    group: int
    block_heads: int
    block_tokens: int
    head_chunks: int
    cluster: int
    tiles_per_head: int
    columns: int  # tiles of a request
    num_tiles: int
    request_major: bool
    bands: int  # columns that are cut alike
    num_parts: int
    num_splits: int  # 0, or forced
    slots_per_part: int
    whole: bool  # no tile is split, as is known before lengths are
    whole_units: int
    start_overhead: int
    pieces_apart: int = 0  # of each kind of items, where a launch of its own attends either
    piece_units: int = 0  # batch invariant, where tiles are split in quanta
    piece_overhead: int = 0
    carries: int = 0
    slots: int = 0
    slot_rows: int = ROWS


def ceil(a: int, b: int) -> int:
    return -(-a // b)


def tile(
    limits: Limits,
    *,
    batch: int,
    s_q: int,
    h_q: int,
    h_kv: int,
    max_blocks: int,
    num_splits: int,
    page_size: int = 64,
    varlen: bool = False,
    total_q: int = 0,
    batch_invariant: bool = False,
    d_v: int = 512,
    own_items: bool = False,
    full: bool = False,
    apart: tuple[int, int] | None = None,
) -> Tiling:
    """`s_q` is max_seqlen_q where `varlen`. `own_items`: query tokens share no keys; `full`: no lengths are given;
    `apart`: the most units of each kind of items, where launches of their own attend them.
    """
    group = h_q // h_kv
    block_heads = min(group, limits.block_rows)
    block_tokens = min(s_q, 1 if own_items else limits.block_rows // block_heads)
    head_chunks = ceil(group, block_heads)
    blocks = ceil(s_q, block_tokens) * head_chunks
    cluster = min(limits.max_cluster, blocks)
    most_units = ceil(min(max_blocks * page_size, INT32_MAX), limits.unit)
    balanced = most_units <= limits.whole_units or num_splits == 0
    if (
        balanced
        and blocks > 2
        and not (varlen or own_items)
        and limits.workers % (h_kv * blocks) <= limits.workers // 16
    ):
        cluster = 1  # in step anyway
    if limits.gathers(page_size, batch_invariant):
        cluster = 1
    clusters = limits.workers // limits.max_cluster if limits.clusters is None else limits.clusters
    cluster = cluster if clusters > 0 else 1
    at_once = limits.workers if cluster == 1 else clusters
    start_overhead = limits.start_overhead
    if blocks == 1 and limits.start_overhead_alone is not None:
        start_overhead = limits.start_overhead_alone
    tiles_per_head = ceil(blocks, cluster)
    columns = h_kv * tiles_per_head
    num_tiles = batch * columns
    invariant: dict[str, int] = {}
    in_pieces = batch_invariant and limits.piece_units > 0
    pieces_apart = _pieces_apart(limits, apart, num_splits, at_once // max(num_tiles, 1), batch_invariant)
    num_splits = 2 * pieces_apart or num_splits
    if in_pieces:
        num_splits = 0
        rows = (total_q if varlen else batch * s_q) * h_q
        slot_rows = ceil(block_heads * block_tokens, limits.stripe_rows) * limits.stripe_rows
        slot_bytes = cluster * slot_rows * 4 * (d_v + limits.partial_facts)
        most_slots = min((2 * 4 * d_v * rows + CAP_BYTES) // slot_bytes, limits.max_slots)
        live = num_tiles
        if varlen:
            live = min(live, h_kv * most_live(batch, total_q, block_tokens, head_chunks, cluster))
        few = group <= limits.few_heads and limits.piece_units_few is not None
        piece_units = limits.piece_units_few if few else limits.piece_units
        quanta = max(1, ceil(most_units, piece_units))
        pieces = len(begins(quanta, 0))
        num_parts = min(max(1, at_once), live * quanta)
        if pieces > 1 and limits.carries:
            num_parts = max(1, min(num_parts, most_slots // limits.carries))
        slots = min(most_slots, min(live, num_parts - 1) * pieces + limits.carries * num_parts)
        slots = slots if pieces > 1 else 0
        invariant = {"piece_units": piece_units, "carries": limits.carries, "slots": slots, "slot_rows": slot_rows}
        invariant["piece_overhead"] = limits.piece_overhead_few if few else limits.piece_overhead
    elif num_splits == 0:
        rows = cluster * block_heads * block_tokens * num_tiles
        num_splits = int(batch_invariant or stays_whole(limits, most_units, at_once // max(num_tiles, 1), rows))
    if num_splits:
        num_parts = num_tiles * num_splits
    elif not in_pieces:
        num_parts = min(max(1, at_once), num_tiles * (most_units + start_overhead))
    alike = tiles_per_head > 1 and not varlen and not num_splits and num_parts % columns <= num_parts // 16
    bands = columns if alike else 1
    balanced = full and not varlen and not num_splits and not in_pieces
    costs = most_units, start_overhead, limits.split_overhead
    num_parts = with_pieces(num_tiles, num_parts, bands, *costs) if balanced else num_parts
    whole = balanced and whole_tiles_win(num_tiles // bands, num_parts // bands, *costs)
    return Tiling(
        group=group,
        block_heads=block_heads,
        block_tokens=block_tokens,
        head_chunks=head_chunks,
        cluster=cluster,
        tiles_per_head=tiles_per_head,
        columns=columns,
        num_tiles=num_tiles,
        request_major=varlen,
        bands=bands,
        num_parts=num_parts,
        num_splits=num_splits,
        slots_per_part=1 if num_splits else 2,
        whole=whole,
        pieces_apart=pieces_apart,
        whole_units=limits.whole_units,
        start_overhead=start_overhead,
        **invariant,
    )


def stays_whole(limits: Limits, units: int, most: int, rows: int) -> bool:
    """Whether tiles, of so many units and `rows` rows in all, are done before at most so many pieces of them would be
    joined.
    """
    if units <= limits.whole_units:
        return True
    most = min(most, units)
    if limits.unit_rows == 0 or most <= 1:
        return False
    piece = ceil(units, most)
    return (units - piece) * limits.unit_rows <= limits.join_overhead * limits.unit_rows + ceil(units, piece) * rows


def with_pieces(tiles: int, parts: int, bands: int, units: int, *overheads: int) -> int:
    """Without parts that are empty, where every tile has so many units and is cut in pieces of one size."""
    if tiles > parts or not pieces_win(tiles, parts, bands, units, *overheads):
        return parts
    return tiles * ceil(units, ceil(units, parts // tiles))


def pieces_win(tiles: int, parts: int, bands: int, units: int, start_overhead: int, split_overhead: int) -> bool:
    """Of all tiles and parts, of which there are no fewer than tiles."""
    allowed = start_overhead + (1 if parts >= 2 * tiles else split_overhead)
    share = ceil(tiles // bands * (units + start_overhead), parts // bands)
    return units > 0 and ceil(units, parts // tiles) + start_overhead <= share + allowed


def whole_tiles_win(tiles: int, parts: int, units: int, start_overhead: int, split_overhead: int) -> bool:
    """Of the tiles and parts of a band, where every tile has so many units."""
    cost = units + start_overhead
    none_for_two = parts < 2 * tiles  # else tiles are cut in pieces
    return (
        units > 0
        and none_for_two
        and ceil(tiles, parts) * cost <= ceil(tiles * cost, parts) + start_overhead + split_overhead
    )


def _pieces_apart(limits: Limits, most_units, num_splits: int, most: int, batch_invariant: bool) -> int:
    """Pieces of a tile's items of each kind; 0 where one launch attends both."""
    if most_units is None:
        return 0
    whole = batch_invariant or max(most_units) <= limits.whole_units
    return max(1, min(num_splits or (1 if whole else most), max(most_units), 512))


def most_live(batch: int, total_q: int, block_tokens: int, head_chunks: int, cluster: int) -> int:
    """The most live tiles of a KV head that so many query tokens can make."""
    requests = min(batch, total_q)  # each of which may have a last block and a last tile that are part empty
    groups = (total_q - requests) // block_tokens + requests
    return (groups * head_chunks - requests) // cluster + requests


def begins(quanta: int, level: int) -> np.ndarray:
    """Batch invariant: the quanta where items of a tile of so many begin."""
    small = np.arange(SMALL_PIECES)
    pieces = np.concatenate([small, np.arange(SMALL_PIECES, max(quanta, SMALL_PIECES), 2)])
    step = (1, NODE_PIECES, len(pieces))[level]
    return pieces[pieces < quanta][::step]


def divisor(d: int) -> int:
    """What the kernels are given to divide by d: a multiplier in the low 32 bits, a shift in the high ones."""
    shift = 31 + (d - 1).bit_length()
    return shift << 32 | ceil(2**shift, d)


def units(limits: Limits, lengths, capacity: int) -> np.ndarray:
    """What the schedule counts of each request: `capacity` is in tokens."""
    return -(-np.clip(np.asarray(lengths, np.int64), 0, capacity) // limits.unit)


def query_tokens(cu_seqlens_q, total_q: int, max_seqlen_q: int) -> np.ndarray:
    """How many query tokens each request has."""
    offsets = np.clip(np.asarray(cu_seqlens_q, np.int64), 0, total_q)
    return np.clip(offsets[1:] - offsets[:-1], 0, max_seqlen_q)


@dataclass(frozen=True)
class Schedule:
    cuts: np.ndarray  # [num_parts + 1] pairs (tile, unit)
    cost_before: np.ndarray
    first_slot: np.ndarray | None = None  # batch invariant; the last entry is the level


def same(found: Schedule, wanted: Schedule, what: str = "") -> None:
    np.testing.assert_array_equal(found.cuts, wanted.cuts, what)
    np.testing.assert_array_equal(found.cost_before, wanted.cost_before, what)
    assert (found.first_slot is None) == (wanted.first_slot is None)
    if wanted.first_slot is not None:
        np.testing.assert_array_equal(found.first_slot, wanted.first_slot, what)


def schedule(limits: Limits, tiling: Tiling, n: np.ndarray, tokens: np.ndarray | None = None) -> Schedule:
    """That of requests of n units.

    `tokens`: of each request, with variable-length queries.
    """
    batch, parts, tiles = len(n), tiling.num_parts, tiling.num_tiles
    request, column = np.divmod(np.arange(tiles), tiling.columns)
    if not tiling.request_major:
        column, request = np.divmod(np.arange(tiles), batch)
    # A tile lives if its first block has a token.
    first_token = column % tiling.tiles_per_head * tiling.cluster // tiling.head_chunks * tiling.block_tokens
    live = np.ones(tiles, bool) if tokens is None else first_token < tokens[request]
    cost = np.where(live, n[request] + tiling.start_overhead, 0)
    if tiling.piece_units:
        quanta = np.maximum(1, ceil(n[request], tiling.piece_units))
        pieces = np.array([len(begins(int(q), 0)) for q in quanta])
        cost = np.maximum(1, n[request]) + tiling.start_overhead + pieces * tiling.piece_overhead
        cost = np.where(live, cost, 0)
    at = np.concatenate([[0], np.cumsum(cost)])
    before = at[np.arange(batch + 1) * (tiling.columns if tiling.request_major else 1)]

    w = np.arange(parts)
    if tiling.piece_units:
        for level in range(3):
            found = _between_items(tiling, at, quanta, live, level)
            first_slot = _slots(tiling, found, quanta, level)
            if first_slot[-1] <= tiling.slots:
                break
        return Schedule(found * [1, tiling.piece_units], before, np.append(first_slot, level))
    if tiling.num_splits:
        tile_of, split = np.divmod(w, tiling.num_splits)
        own = n[request[tile_of]]
        pieces = np.minimum(tiling.num_splits, np.maximum(own, 1))
        equal = np.stack([tile_of, split * own // pieces], 1)
        found = np.where((split < pieces)[:, None], equal, _begin(tile_of + 1))
    else:
        found = _balanced(limits, tiling, at, n, request, live)
    found[0] = 0
    return Schedule(np.concatenate([found, [[tiles, 0]]]), before)


def schedule_apart(tiling: Tiling, units: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Cuts of all pieces of both kinds of items, then those of either's launch. `units`: of each request and kind."""
    tiles, pieces = np.arange(tiling.num_tiles), tiling.pieces_apart
    request = tiles // tiling.columns if tiling.request_major else tiles % len(units[0])
    end = [[tiling.num_tiles, 0]]
    both = [(t, j) for t in tiles for j in range(2 * pieces)]
    of_kinds = [[(t, j * max(n[request[t]], pieces) // pieces) for t in tiles for j in range(pieces)] for n in units]
    return np.concatenate([np.array([*cuts, *end]) for cuts in (both, *of_kinds)])


def _between_items(tiling: Tiling, at: np.ndarray, quanta: np.ndarray, live: np.ndarray, level: int) -> np.ndarray:
    """Batch invariant: pairs (tile, quantum), at begins of items, for the costliest part to cost about the least."""
    parts, tiles = tiling.num_parts // tiling.bands, tiling.num_tiles // tiling.bands
    cost, places, where = int(at[tiles]), [], []  # of a band: where items begin
    for t in np.flatnonzero(live[:tiles]):
        quanta_of_items = begins(int(quanta[t]), level)
        pieces = np.searchsorted(begins(int(quanta[t]), 0), quanta_of_items)  # before each
        within = quanta_of_items * tiling.piece_units + pieces * tiling.piece_overhead
        where += [int(at[t] + x + (tiling.start_overhead if x else 0)) for x in within]
        places += [(int(t), int(q)) for q in quanta_of_items]
    where, places = [*where, cost], [*places, (tiles, 0)]
    of_item = (1, NODE_PIECES, 2**30)[level] * (2 * tiling.piece_units + tiling.piece_overhead)
    most = min(int(np.diff(at[: tiles + 1]).max()), tiling.start_overhead + of_item)
    step = most // (BUDGETS - 1) + 1
    for budget in range(ceil(cost, parts), ceil(cost, parts) + BUDGETS * step, step):
        cuts = [0]  # numbers of items
        while len(cuts) < parts + 1 and cuts[-1] < len(where) - 1:
            cuts.append(int(np.searchsorted(where, where[cuts[-1]] + budget, side="right")) - 1)
            if cuts[-1] == cuts[-2]:
                break
        if cuts[-1] == len(where) - 1:
            break
    else:
        raise AssertionError("no budget suffices")
    cuts += [len(where) - 1] * (parts + 1 - len(cuts))
    found = [(band * tiles + places[i][0], places[i][1]) for band in range(tiling.bands) for i in cuts[:parts]]
    found += [(tiling.num_tiles, 0)] * (tiling.num_parts - len(found))
    found[0] = (0, 0)
    return np.array([*found, (tiling.num_tiles, 0)])


def _slots(tiling: Tiling, found: np.ndarray, quanta: np.ndarray, level: int) -> np.ndarray:
    """The first slot of each part, and the end of all."""
    stored = []
    for (tile, low), (end_tile, high) in zip(found[:-1].tolist(), found[1:].tolist(), strict=True):
        runs = [(tile, low, high if tile == end_tile else INT32_MAX)] if low else []
        if high and not (tile == end_tile and low):
            runs.append((end_tile, 0, high))
        items = [begins(int(quanta[t]), level) for t, _, _ in runs]
        stored.append(sum(int(((b >= a) & (b < e)).sum()) for b, (_, a, e) in zip(items, runs, strict=True)))
    return tiling.carries * tiling.num_parts + np.concatenate([[0], np.cumsum(stored)])


def _begin(tile_of: np.ndarray) -> np.ndarray:
    """The beginnings of tiles."""
    return np.stack([tile_of, np.zeros_like(tile_of)], 1)


def _in_pieces(tile_of: np.ndarray, split: np.ndarray, piece: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Where part `split` of each tile of n units begins, in pieces of so many: the next tile if it has no such one."""
    unit = split * piece
    return np.where(((unit > 0) & (unit >= n))[:, None], _begin(tile_of + 1), np.stack([tile_of, unit], 1))


def _balanced(limits: Limits, tiling: Tiling, at: np.ndarray, n: np.ndarray, request: np.ndarray, live: np.ndarray):
    """Where each part begins: aligned with tiles if that is nearly as even. at[t] is the cost of all tiles before t."""
    parts, tiles, total = tiling.num_parts, tiling.num_tiles, int(at[-1])
    w = np.arange(parts)
    band_parts, band_tiles = parts // tiling.bands, tiles // tiling.bands
    band_cost = int(at[band_tiles])
    per_part, share = ceil(band_tiles, band_parts), ceil(band_cost, band_parts)
    band, inside = np.divmod(w, band_parts)
    pieces = parts // tiles
    if pieces:
        piece = np.where(n <= tiling.whole_units, np.maximum(1, n), ceil(n, pieces))
        worst = int(piece.max()) + tiling.start_overhead
        tile_of = np.minimum(w // pieces, tiles)
        inner = np.minimum(tile_of, tiles - 1)
        aligned = _in_pieces(tile_of, w % pieces, piece[request[inner]], n[request[inner]])
        aligned = np.where(live[inner][:, None], aligned, _begin(tile_of + 1))
        aligned = np.where((tile_of < tiles)[:, None], aligned, [tiles, 0])
    else:
        edges = at[np.minimum(np.arange(band_parts + 1) * per_part, band_tiles)]
        worst = int(np.diff(edges).max())
        aligned = _begin(np.minimum(band * band_tiles + np.minimum(inside * per_part, band_tiles), tiles))
    if worst <= share + tiling.start_overhead + (1 if pieces > 1 else limits.split_overhead):
        return aligned
    position = band * band_cost + np.minimum(inside * share, band_cost)
    found = np.searchsorted(at, position, side="right") - 1  # the last one that begins there: no dead one
    unit = np.maximum(0, position - at[found] - tiling.start_overhead)
    return np.where((position < total)[:, None], np.stack([found, unit], 1), [tiles, 0])


def are_known(tiling: Tiling, *, full: bool) -> bool:
    """Whether cuts follow from shapes, so that kernels which can do without a schedule do."""
    if tiling.pieces_apart or tiling.piece_units:
        return False
    return tiling.num_splits == 1 or (full and not tiling.num_splits and not tiling.request_major)


def known_cuts(params: dict) -> np.ndarray | None:
    """Those that a kernel's parameters say; None: it reads them."""
    cost, of_group = params["tile_cost"], params["group_parts"]
    assert params["by_tile_cost"] == divisor(max(cost, 1))
    assert params["by_group_parts"] == divisor(max(of_group, 1))
    if cost == 0:
        return None
    group, inside = np.divmod(np.arange(params["num_parts"] + 1), of_group)
    begin = params["first_cost"] + inside * params["part_cost"]
    at = np.minimum(group * params["group_cost"] + np.minimum(begin, params["group_cost"]), params["total_cost"])
    return np.stack([at // cost, np.maximum(at % cost - params["begin_cost"], 0)], 1)


def places(tiling: Tiling) -> tuple[int, int]:
    """Where first_slot and cost_before lie in a plan's buffer; in bytes."""
    slots = 8 * (tiling.num_parts + 1 + (tiling.num_parts + 2 if tiling.pieces_apart else 0))
    costs = slots + (4 * (tiling.num_parts + 2) if tiling.piece_units else 0)
    return slots, ceil(costs, 16) * 16


def read(buffer: np.ndarray, tiling: Tiling, batch: int) -> Schedule:
    """Out of the bytes of a plan's buffer."""
    slots, costs = places(tiling)
    first_slot = buffer[slots : slots + 4 * (tiling.num_parts + 2)].view(np.int32) if tiling.piece_units else None
    cost_before = buffer[costs : costs + 8 * (batch + 1)].view(np.int64)
    return Schedule(buffer[:slots].view(np.int32).reshape(-1, 2), cost_before, first_slot)


def level(buffer: np.ndarray, tiling: Tiling) -> int:
    """Of a batch-invariant plan, out of the bytes of its buffer."""
    return int(read(buffer, tiling, 0).first_slot[-1])


SPREADS = ("equal", "random", "short", "one long", "outside")


def draw_lengths(draw: np.random.Generator, spread: str, batch: int, capacity: int) -> np.ndarray:
    """cache_seqlens of up to `capacity` tokens, or beyond any limit."""
    lengths = draw.integers(0, capacity + 1, batch)
    if spread == "equal":
        lengths[:] = lengths[0]
    elif spread == "short":
        lengths %= 260
    elif spread == "one long":
        lengths[draw.permutation(batch)[1:]] %= 70
    elif spread == "outside":
        outside = draw.random(batch) < 0.5
        lengths[outside] = draw.choice([-(2**31), -1, 2**31 - 1, capacity + 1], int(outside.sum()))
    return lengths


def draw_offsets(draw: np.random.Generator, batch: int, s_q: int) -> tuple[np.ndarray, int]:
    """cu_seqlens_q and total_q: in order, or anything."""
    counts = draw.integers(0, s_q + 2, batch) * draw.integers(0, 2, batch)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    total_q = max(1, int(offsets[-1]))
    if draw.random() < 0.3:
        offsets = draw.integers(-2, total_q + 3, batch + 1)
    return offsets.astype(np.int32), total_q
