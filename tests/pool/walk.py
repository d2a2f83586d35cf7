"""A long random walk on a pool under pressure: prompts that share prefixes, decode steps, and an end of something where
there is no room. Beside hypothesis, whose calls are more varied and whose walks are shorter."""

from __future__ import annotations

import random

from pool.machine import continued
from pool.model import Model
from pool.subject import Subject

SIZES = {
    "num_blocks": 12,
    "page_size": 3,
    "rows": 7,
    "max_blocks": 6,
    "slots": 40,
    "host_blocks": 12,
    "max_sequences": 12,
}
WEIGHTS = {"prompt": 5, "step": 6, "append": 4, "commit": 2, "fork": 2, "truncate": 2, "free_head": 2, "free": 2}
WEIGHTS |= {"swap": 6, "hold": 1, "release": 1, "check": 1, "poison": 1, "reload": 0.1}


class Walk:
    def __init__(self, seed: int, memory=None, layers: int = 2, layout: str = "listed") -> None:
        self.random = random.Random(seed)
        self.subject = Subject(Model(**SIZES), layers, layout, memory)
        self.model = self.subject.model

    def run(self, steps: int) -> None:
        for name in self.random.choices([*WEIGHTS], [*WEIGHTS.values()], k=steps):
            if len(self.model.sequences) > 2 and self.model.free_blocks + len(self.model.cached) < 2:
                self.free()
            getattr(self, name, getattr(self.subject, name, None))()
        self.subject.check()
        self.subject.end()

    def one(self) -> int | None:
        return self.random.choice(self.model.resident) if self.model.resident else None

    def more(self, name: int, count: int) -> list[int]:
        return continued(self.model.sequences[name].length, count, self.random.randrange(3))

    def prompt(self) -> None:
        ids = continued(0, self.random.randrange(15), self.random.randrange(3))
        name = self.subject.allocate(ids)
        if name is None:
            return
        sequence = self.model.sequences[name]
        self.subject.append([name], [ids[sequence.length :]])
        self.subject.commit(name, sequence.length)

    def step(self) -> None:
        names = self.model.resident
        self.subject.append(names, [self.more(name, 1) for name in names])

    def append(self) -> None:
        names = self.random.sample(self.model.resident, min(2, len(self.model.resident)))
        self.subject.append(names, [self.more(name, self.random.randrange(5)) for name in names])

    def commit(self) -> None:
        name = self.one()
        if name is not None:
            self.subject.commit(name, self.model.sequences[name].length)

    def fork(self) -> None:
        name = self.one()
        if name is not None:
            self.subject.fork(name)

    def cut(self, method: str) -> None:
        name = self.one()
        if name is not None:
            self.subject.call(method, name, self.random.randint(0, self.model.sequences[name].length))

    def truncate(self) -> None:
        self.cut("truncate")

    def free_head(self) -> None:
        self.cut("free_head")

    def free(self) -> None:
        if self.model.sequences:
            self.subject.call("free", self.random.choice([*self.model.sequences]))

    def swap(self) -> None:
        out = [name for name, sequence in self.model.sequences.items() if sequence.blocks is None]
        if out and self.random.random() < 0.6:
            self.subject.call("swap_in", self.random.choice(out))
        elif self.model.resident:
            self.subject.call("swap_out", self.one())

    def hold(self) -> None:
        name = self.one()
        if name is not None and self.model.sequences[name].blocks:
            self.subject.hold(self.random.choice(self.model.sequences[name].blocks))

    def release(self) -> None:
        held = sorted((block for block in self.model.used if block.holds), key=lambda block: block.number)
        if held:
            self.subject.release(self.random.choice(held))
