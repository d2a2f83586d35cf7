"""Faults of the dense_decode kernels, with those of the kernels beside it, that the GPU suite must find."""

from __future__ import annotations

from ops.dense_decode.gpu_code_faults import CODE_FAULTS, CODES
from planted_faults import Edit, KernelFault

FOLDER = "dsl_kernels/dense_decode/"
QK, PV, LOADER = FOLDER + "qk.py", FOLDER + "pv.py", FOLDER + "loader.py"
BOXES = FOLDER + "boxes.py"
EPILOGUE, UNSCALED_QK = FOLDER + "epilogue.py", FOLDER + "unscaled_qk.py"
PAGES, GATHER, GATHER_PV = FOLDER + "pages.py", FOLDER + "gather.py", FOLDER + "gather_pv.py"
CARRIES, MASKING, WORK = FOLDER + "carries.py", FOLDER + "masking.py", FOLDER + "work.py"
BARRIERS = FOLDER + "barrier_table.py"
SCHEDULE, ATTENDED = "dsl_kernels/core/schedule.py", "dsl_kernels/core/attended.py"
COMBINE = "dsl_kernels/combine/kernel.py"


NUMBERS = ("dense_decode",)


def fault(name: str, file: str, before: str, after: str, *, always: bool = True, calls=NUMBERS) -> KernelFault:
    return KernelFault(name, (Edit(file, before, after),), always, calls)


GPU_FAULTS = [
    *CODE_FAULTS,
    # ---- order
    fault(
        "combine does not wait for the partial results",
        COMBINE,
        '    """Until dense_decode is done. The schedule was there when it began, so all that follows from it comes'
        ' before."""\n    cute.arch.griddepcontrol_wait()\n',
        "    pass\n",
        always=False,
    ),
    fault(
        "fence before P is handed over",
        QK,
        '        """P and scale of a unit were written with ordinary stores: shows them to the tensor cores and says'
        ' so."""\n        cute.arch.fence_proxy("async.shared", space="cta")\n',
        "",
        always=False,
    ),
    fault(
        "PV does not wait for P",
        PV,
        "        cute.arch.mbarrier_wait(self.bars.p_full(slot), phase)\n        scale0,",
        "        scale0,",
    ),
    fault(
        "barrier count of a full slot",  # one loader's bytes are enough
        BARRIERS,
        'Barrier("full", "slot", 2,',
        'Barrier("full", "slot", 1,',
    ),
    fault(
        "barrier count of P",
        BARRIERS,
        'Barrier("p_full", "slot", QUADS,',
        'Barrier("p_full", "slot", 24,',
    ),
    fault(
        "stale phase of a full slot",
        QK,
        "                        self.go(before, warp)\n"
        "                    cute.arch.mbarrier_wait(self.bars.full(slot), phase)\n",
        "                        self.go(before, warp)\n"
        "                    cute.arch.mbarrier_wait(self.bars.full(slot), phase ^ 1)\n",
    ),
    fault(
        "a slot is not given back",
        PV,
        "                    if n > 0:\n                        slot, _",
        "                    if n > 1:\n                        slot, _",
    ),
    fault(
        "the left loader does not wait for an empty slot",
        LOADER,
        "            cute.arch.mbarrier_wait(self.bars.empty(slot, 0), phase ^ 1)\n",
        "",
    ),
    fault(
        "roles do not wait for a work record",
        FOLDER + "barriers.py",
        "        cute.arch.mbarrier_wait(self.work_full(record), phase)\n",
        "",
    ),
    # ---- values
    fault(
        "swapped halves",
        PV,
        "rV[None, None, None, half, slot], (0, 4), False)",
        "rV[None, None, None, 1 - half, slot], (0, 4), False)",
    ),
    fault(
        "wrong scale of a row",
        PV,
        "o_rows[1, None].store(o_rows[1, None].load() * scale1)",
        "o_rows[1, None].store(o_rows[1, None].load() * scale0)",
    ),
    fault(
        "wrong slice of P",
        PV,
        "rP[None, None, None, self.smem.last(it, slot)]",
        "rP[None, None, None, self.kernel.slices * slot]",
    ),
    fault(
        "power of a partial row",
        FOLDER + "epilogue.py",
        "_float(0x7F000000 - power)",
        "_float(0x7E800000 - power)",
    ),
    fault(
        "wrong softmax scale",
        QK,
        "online_softmax([self.factor(0), self.factor(1)],",
        "online_softmax([self.factor(0) * 1.0625, self.factor(1) * 1.0625],",
    ),
    fault(
        "skipped mask",
        QK,
        "        if remaining < UNIT:\n            mask(",
        "        if remaining < 0:\n            mask(",
    ),
    fault(
        "dead rows of V are not cleared",
        PV,
        "        if (shared_remaining(self.a, remaining) < UNIT) or",
        "        if (shared_remaining(self.a, remaining) < -UNIT) or",
    ),
    fault(
        "rows of V before a window are not cleared",
        PV,
        "(before_windows(self.a, remaining) > 0)",
        "(before_windows(self.a, remaining) > UNIT * UNIT * UNIT)",
    ),
    fault("a token before its window", MASKING, "+ c % 2 < begin else", "+ c % 2 < begin - 1 else"),
    fault(
        "the first query token's window for all",
        MASKING,
        "begin = remaining + token - a.window",
        "begin = remaining + 0 * token - a.window",
    ),
    fault(
        "a loader begins before the window",
        WORK,
        "            first = self.first_unit(attended",
        "            first = 0 * self.first_unit(attended",
    ),
    fault(
        "causal mask of later query tokens",
        ATTENDED,
        "    token = a.causal * divide(row, a.by_block_heads)\n",
        "    token = 0 * divide(row, a.by_block_heads)\n",
    ),
    # ---- where
    fault(
        "unclamped length",
        ATTENDED,
        "    return min(max(length, 0), a.capacity)\n",
        "    return max(length, 0)\n",
    ),
    fault(
        "stale page",  # of the unit before
        LOADER,
        "                    column = index + 1\n",
        "                    column = index\n",
    ),
    fault(
        "boxes behind the end of a page are read from it",
        LOADER,
        "        pages = Int32(rows >= a.page_size)  #",
        "        pages = Int32(0 >= a.page_size)  #",
    ),
    fault(
        "rows of a page are not counted anew in the next",
        LOADER,
        "            row += a.box_rows\n            if row >= a.page_size:\n                row -= a.page_size\n",
        "            row += a.box_rows\n",
    ),
    fault(
        "a page outside is page 0",
        LOADER,
        "self.load_unit(half, bar, first, head, cute.arch.shuffle_sync(page, 0))",
        "self.load_unit(half, bar, first, head, cutlass.max(cute.arch.shuffle_sync(page, 0), 0))",
    ),
    fault(
        "wrong slot of a partial result",
        SCHEDULE,
        "(a.slots_per_part - 1 if begins else 0)\n",
        "(0 if begins else a.slots_per_part - 1)\n",
    ),
    fault(
        "pieces overlap",
        SCHEDULE,
        "    end = min(unit, units) if tile == last else units\n",
        "    end = min(unit + 1, units) if tile == last else units\n",
    ),
    fault(
        "weight of a piece",
        COMBINE,
        "cute.math.exp2(lse - total, fastmath=True) * unit",
        "cute.math.exp2(0.5 * (lse - total), fastmath=True) * unit",
    ),
    # ---- rows that are gathered
    fault(
        "a row of a page outside is one of page 0",
        PAGES,
        "        valid = (Uint32(token) < Uint32(sWork[work.LENGTH, record])) and "
        "(Uint32(page) < Uint32(a.num_blocks))\n"
        "        page = page if valid else Int32(0)\n",
        "        valid = Uint32(token) < Uint32(sWork[work.LENGTH, record])\n"
        "        page = page if valid and (Uint32(page) < Uint32(a.num_blocks)) else Int32(0)\n",
    ),
    fault("the first row of a page", PAGES, "token - column * a.page_size", "token * 0", calls=CODES),
    fault(
        "a page of the unit before",
        GATHER,
        "index = self.read_ahead(warp, record, unit)\n        return",
        "index = self.read_ahead(warp, record, unit - 1)\n        return",
    ),
    fault(
        "rows of V behind the length of the unit before",
        GATHER_PV,
        "work.UNITS, record] - n",
        "work.UNITS, record] - n - 1",
        calls=CODES,
    ),
    fault(
        "scales of a row's other half",
        FOLDER + "codes.py",
        "8 * half + 4 * part)\n        elif",
        "8 - 8 * half + 4 * part)\n        elif",
        calls=CODES,
    ),
    fault(
        "rows that copies bring are not shown to the tensor cores",
        FOLDER + "rows.py",
        '        cute.arch.fence_proxy("async.shared", space="cta")\n',
        "        pass\n",
        always=False,
        calls=CODES,
    ),
    fault(
        "codes of the other half",
        FOLDER + "codes.py",
        "self.parts * half + part",
        "self.parts * (1 - half) + part",
        calls=CODES,
    ),
    fault(
        "codes in the place of a narrow row's RoPE part",
        FOLDER + "narrow.py",
        "((place + source) ^ HALF)",
        "(place + source)",
        calls=CODES,
    ),
    fault(
        "a box of a narrow row's other half",
        FOLDER + "narrow.py",
        "HALF // 2 * half, 0",
        "HALF // 2 * 0, 0",
        calls=CODES,
    ),
    fault("a narrow row's other half", FOLDER + "narrow.py", "source + HALF * half", "source", calls=CODES),
    fault(
        "results without the scale of all codes",
        EPILOGUE,
        "                inverse *= scale\n",
        "                pass\n",
        calls=CODES,
    ),
    fault(
        "an infinite scale of all codes",
        EPILOGUE,
        "spoiled(spoiled(total, scale), scale_q)",
        "spoiled(total, scale_q)",
        calls=CODES,
    ),
    fault("a row of Q has the factor of another", UNSCALED_QK, "(lane >> 4) + 2 == i", "(lane >> 4) == i", calls=CODES),
    fault("logits without the size of a scale", UNSCALED_QK, "* back * scale)", "* back)", calls=CODES),
    fault(
        "the RoPE part's codes are made over",
        FOLDER + "unscaled.py",
        "                cute.arch.sync_warp()  # numbers go there now\n",
        "",
        always=False,
        calls=CODES,
    ),
    fault(
        "codes are not waited for",
        BOXES,
        "        cute.arch.mbarrier_wait(self.bars.raw(slot, half), phase)\n",
        "",
        calls=CODES,
    ),
    fault(
        "RoPE columns behind the end of a row",
        FOLDER + "rows.py",
        "Int32(0) if 16 * (cute.arch.lane_idx() & 7) >= number else size",
        "size",
        always=False,  # Q has zeros there: only NaN and infinity show
    ),
    # ---- batch invariant
    fault(
        "the carry of another source",
        CARRIES,
        "2 * invariant.part_of(destination) + source",
        "2 * invariant.part_of(destination) + 1 - source",
    ),
    fault(
        "a node begins a piece late",
        FOLDER + "invariant.py",
        "    inside = number & (NODE_PIECES - 1)\n",
        "    inside = max(number - 1, 0) & (NODE_PIECES - 1)\n",
    ),
    fault(
        "order of a fold",
        CARRIES,
        "    low = weigh(facts[FACTS * row], own_low)\n",
        "    low = weigh(own_low, facts[FACTS * row])\n",
    ),
    fault(
        "RoPE columns behind those of Q",
        FOLDER + "queries.py",
        "src[None, chunk, 0, token, head, layer], to",
        "src[None, chunk, 1, token, head, layer], to",
    ),
    fault(
        "a loader takes no Q",
        FOLDER + "invariant_loader.py",
        "        return Int32(0) if same_q else",
        "        return Int32(0) if same_q or True else",
    ),
    fault(
        "sums of a piece are not waited for",
        FOLDER + "invariant_pv.py",
        "        self.bars.hear_sums(piece)\n",
        "",
        always=False,
    ),
    fault(
        "the last unit is given back before the fold",
        FOLDER + "invariant_pv.py",
        "                lse = self.fold_piece(half, it, destination, done(pieces))\n"
        "                item = it + (kernel.slots - 1)\n                if goes_on(destination):\n"
        '                    cute.arch.fence_proxy("async.shared", space="cta")\n'
        "                    self.give_back(half, it)\n",
        "                if goes_on(destination):\n                    self.give_back(half, it)\n"
        "                lse = self.fold_piece(half, it, destination, done(pieces))\n"
        "                item = it + (kernel.slots - 1)\n                if goes_on(destination):\n",
        always=False,
    ),
    fault(
        "fold joins pieces without nodes",
        "dsl_kernels/fold/kernel.py",
        "return first, count, shift == 0",
        "return first, count, shift < 0",
    ),
]
