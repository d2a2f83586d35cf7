"""Random calls of a pool, legal and not, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pool.model import Model
from pool.subject import Subject

# Few ids, so that prompts have prefixes in common.
IDS = st.lists(st.integers(0, 1), max_size=14)
COUNT = st.sampled_from([0, 1, 1, 1, 2, 3, 5, 9])
PLACE = st.integers(0, 2**16)


class PoolMachine(RuleBasedStateMachine):
    memory = None  # NumPy's

    @initialize(
        num_blocks=st.integers(1, 14),
        page_size=st.sampled_from([1, 2, 3, 4]),
        rows=st.integers(1, 5),
        max_blocks=st.integers(1, 6),
        host_blocks=st.sampled_from([0, 2, 8, 20]),
        more=st.integers(0, 3),
        slots=st.sampled_from([4, 40]),
        layers=st.integers(1, 3),
        layout=st.sampled_from(["listed", "stacked", "interleaved"]),
    )
    def begin(self, num_blocks, page_size, rows, max_blocks, host_blocks, more, slots, layers, layout):
        model = Model(num_blocks, page_size, rows, max_blocks, slots, host_blocks, rows + more)
        self.subject = Subject(model, layers, layout, self.memory)
        self.model = model
        self.next_id = 0

    def some(self, place: int) -> int:
        """A sequence that there is, or one in eight times one that was freed."""
        names = [*self.model.sequences]
        if place % 8 == 7 and self.model.freed:
            return self.model.freed[place % len(self.model.freed)]
        return names[place % len(names)]

    @rule(ids=IDS)
    def allocate(self, ids):
        name = self.subject.allocate(ids)
        rest = ids[self.model.sequences[name].length :] if name is not None else []
        if rest:
            self.subject.append([name], [rest])

    @precondition(lambda self: self.model.sequences)
    @rule(places=st.lists(PLACE, min_size=1, max_size=5, unique=True), counts=st.lists(COUNT, min_size=5, max_size=5),
          ids=st.lists(st.integers(0, 1), min_size=45, max_size=45))  # fmt: skip
    def append(self, places, counts, ids):
        names = [self.some(place) for place in places]
        self.subject.append(
            names, [ids[9 * i : 9 * i + count] for i, count in zip(range(len(names)), counts, strict=False)]
        )

    @precondition(lambda self: self.model.resident)
    @rule(count=COUNT)
    def step(self, count):
        """A decode step of all."""
        self.subject.append(self.model.resident, [[count % 2]] * len(self.model.resident))

    @precondition(lambda self: self.model.sequences)
    @rule(place=PLACE)
    def fork(self, place):
        self.subject.fork(self.some(place))

    @precondition(lambda self: self.model.sequences)
    @rule(place=PLACE, tokens=st.one_of(st.none(), st.integers(0, 26)))
    def commit(self, place, tokens):
        name = self.some(place & ~7)  # one that there is
        self.subject.commit(name, self.model.sequences[name].length if tokens is None else tokens)

    @precondition(lambda self: self.model.sequences)
    @rule(place=PLACE, method=st.sampled_from(["truncate", "free_head"]), back=st.integers(-1, 12))
    def cut(self, place, method, back):
        name = self.some(place)
        length = self.model.sequences[name].length if name in self.model.sequences else 0
        self.subject.call(method, name, length - back)

    @precondition(lambda self: self.model.sequences)
    @rule(place=PLACE, method=st.sampled_from(["free", "swap_out", "swap_in", "swap_in"]))
    def move(self, place, method):
        if method != "free" and not self.model.host_blocks:
            return
        self.subject.call(method, self.some(place))

    @precondition(lambda self: self.model.used)
    @rule(place=PLACE)
    def hold(self, place):
        blocks = [block for name in self.model.resident for block in self.model.sequences[name].blocks]
        if blocks:
            self.subject.hold(blocks[place % len(blocks)])

    @rule(place=PLACE)
    def release(self, place):
        held = [block for block in self.model.used if block.holds]
        if held:
            held.sort(key=lambda block: block.number)
            self.subject.release(held[place % len(held)])

    @rule()
    def reload(self):
        self.subject.reload()

    @rule()
    def look(self):
        self.subject.check()

    @rule()
    def poison(self):
        self.subject.poison()

    @invariant()
    def usage(self):
        if hasattr(self, "subject"):
            self.subject.check_usage()

    def teardown(self):
        if hasattr(self, "subject"):
            self.subject.check()
            self.subject.end()
