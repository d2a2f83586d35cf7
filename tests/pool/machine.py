"""Random calls of a pool, legal and not, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pool.model import Model
from pool.subject import Subject

LONGEST = 18  # a prompt
COUNT = st.sampled_from([0, 1, 1, 1, 2, 3, 5, 9])
PLACE = st.integers(0, 2**16)
BRANCH = st.integers(0, 3)


def continued(length: int, count: int, branch: int) -> list[int]:
    """Ids of the next tokens of a sequence: the same in all at first, so that sequences have prefixes in common."""
    return [place * 4 + (branch if place > 3 else 0) for place in range(length, length + count)]


class PoolMachine(RuleBasedStateMachine):
    memory = None  # NumPy's

    @initialize(
        num_blocks=st.sampled_from([12, 9, 15, 7, 20, 5, 1]),
        page_size=st.sampled_from([2, 3, 4, 1]),
        rows=st.sampled_from([10, 8, 6, 4, 1]),
        max_blocks=st.sampled_from([8, 6, 6, 4, 1]),
        host_blocks=st.sampled_from([12, 20, 8, 2, 0]),
        more=st.integers(0, 3),
        slots=st.sampled_from([40, 40, 40, 4]),
        layers=st.integers(1, 3),
        layout=st.sampled_from(["listed", "stacked", "interleaved"]),
    )
    def begin(self, num_blocks, page_size, rows, max_blocks, host_blocks, more, slots, layers, layout):
        model = Model(num_blocks, page_size, rows, max_blocks, slots, host_blocks, rows + more)
        self.subject = Subject(model, layers, layout, self.memory)
        self.model = model
        self.next_id = 0

    def some(self, place: int) -> int:
        """A sequence that there is, or one in 32 times one that was freed."""
        names = [*self.model.sequences]
        if place % 32 == 31 and self.model.freed:
            return self.model.freed[place % len(self.model.freed)]
        return names[place % len(names)]

    @rule(count=st.integers(0, LONGEST), branch=BRANCH, publish=st.booleans())
    def allocate(self, count, branch, publish):
        """A prompt, of which most is computed and may be published."""
        ids = continued(0, count, branch)
        name = self.subject.allocate(ids)
        if name is None:
            return
        sequence = self.model.sequences[name]
        if sequence.length < count:
            self.subject.append([name], [ids[sequence.length :]])
        if publish:
            self.subject.commit(name, sequence.length)

    @precondition(lambda self: self.model.sequences)
    @rule(places=st.lists(PLACE, min_size=1, max_size=4, unique=True), count=COUNT, other=COUNT, branch=BRANCH)
    def append(self, places, count, other, branch):
        names = [self.some(place) for place in places]
        if places[0] % 16 != 9:
            names = [*dict.fromkeys(names)]  # else some may be named twice
        counts = [count, other] * 2
        self.subject.append(names, [self.more(name, counts[i], branch) for i, name in enumerate(names)])

    def more(self, name: int, count: int, branch: int) -> list[int]:
        return continued(self.model.sequences[name].length if name in self.model.sequences else 0, count, branch)

    @precondition(lambda self: self.model.resident)
    @rule(branch=BRANCH)
    def step(self, branch):
        """A decode step of all."""
        names = self.model.resident
        self.subject.append(names, [self.more(name, 1, branch) for name in names])

    @precondition(lambda self: self.model.sequences)
    @rule(place=PLACE)
    def fork(self, place):
        self.subject.fork(self.some(place))

    @precondition(lambda self: self.model.sequences)
    @rule(place=PLACE, tokens=st.one_of(st.none(), st.integers(0, 26)))
    def commit(self, place, tokens):
        name = self.some(place & ~31)  # one that there is
        self.subject.commit(name, self.model.sequences[name].length if tokens is None else tokens)

    @precondition(lambda self: self.model.sequences)
    @rule(place=PLACE, method=st.sampled_from(["truncate", "free_head"]), back=st.integers(-1, 12))
    def cut(self, place, method, back):
        name = self.some(place)
        length = self.model.sequences[name].length if name in self.model.sequences else 0
        self.subject.call(method, name, length - back)

    @precondition(lambda self: self.model.sequences)
    @rule(place=PLACE)
    def free(self, place):
        self.subject.call("free", self.some(place))

    @precondition(lambda self: self.model.sequences and self.model.host_blocks)
    @rule(place=PLACE)
    def swap(self, place):
        swapped = [name for name, sequence in self.model.sequences.items() if sequence.blocks is None]
        name = swapped[place % len(swapped)] if swapped and place % 2 else self.some(place)
        out = name in self.model.resident
        self.subject.call("swap_out" if out != (place % 16 == 5) else "swap_in", name)

    @precondition(lambda self: self.model.used)
    @rule(place=PLACE, end=st.booleans())
    def hold(self, place, end):
        resident = [block for name in self.model.resident for block in self.model.sequences[name].blocks]
        held = sorted((block for block in self.model.used if block.holds), key=lambda block: block.number)
        if end and held:
            self.subject.release(held[place % len(held)])
        elif resident:
            self.subject.hold(resident[place % len(resident)])

    @rule(what=st.sampled_from(["check", "check", "poison", "reload"]))
    def look(self, what):
        getattr(self.subject, what)()

    @invariant()
    def usage(self):
        if hasattr(self, "subject"):
            self.subject.check_usage()

    def teardown(self):
        if hasattr(self, "subject"):
            self.subject.check()
            self.subject.end()
