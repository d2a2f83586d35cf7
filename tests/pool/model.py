"""What a pool must do, as dictionaries and lists: which sequence has which block, what every token's row holds, which
blocks are cached and which of them goes first. Blocks are objects here; the numbers that the pool gives them are
checked against what the objects have been, never predicted, but where a cached block is handed out.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field


class Refused(Exception):  # noqa: N818 - what the pool must answer
    """The call must fail with this status and change nothing."""


@dataclass(eq=False)
class Block:
    references: int = 1
    holds: int = 0
    key: tuple | None = None  # the tokens up to its end, where it is published
    number: int | None = None  # of the page, once it was seen


@dataclass(eq=False)
class Sequence:
    ids: list[int] = field(default_factory=list)  # token ids, from the beginning
    tags: list[int] = field(default_factory=list)  # what the row of each holds
    head: int = 0  # blocks given up
    blocks: list[Block] | None = field(default_factory=list)  # behind the head; None: swapped out
    committed_blocks: int = 0
    shown: bool = True

    @property
    def length(self) -> int:
        return len(self.ids)


@dataclass
class Model:
    num_blocks: int
    page_size: int
    rows: int
    max_blocks: int
    slots: int
    host_blocks: int
    max_sequences: int
    sequences: dict[int, Sequence] = field(default_factory=dict)
    freed: list[int] = field(default_factory=list)  # names
    used: set[Block] = field(default_factory=set)
    cached: list[Block] = field(default_factory=list)  # the one to go first is first
    index: dict[tuple, Block] = field(default_factory=dict)
    contents: dict[Block, list[int]] = field(default_factory=dict)  # tags of a published block
    tag: itertools.count = field(default_factory=lambda: itertools.count(1))

    # -- blocks

    @property
    def free_blocks(self) -> int:
        return self.num_blocks - len(self.used) - len(self.cached)

    @property
    def free_host_blocks(self) -> int:
        out = [s for s in self.sequences.values() if s.blocks is None]
        return self.host_blocks - sum(self.count(s.length) - s.head for s in out)

    @property
    def resident(self) -> list[int]:
        return [name for name, sequence in self.sequences.items() if sequence.blocks is not None]

    def count(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def take(self) -> Block:
        block = Block()
        if self.free_blocks == 0:
            evicted = self.cached.pop(0)
            self.unpublish(evicted)
            block.number = evicted.number
        self.used.add(block)
        return block

    def refer(self, block: Block) -> None:
        if block.references == 0:
            self.cached.remove(block)
            self.used.add(block)
        block.references += 1

    def unrefer(self, block: Block) -> None:
        block.references -= 1
        if block.references == 0:
            self.used.remove(block)
            if block.key is not None:
                self.cached.append(block)

    def publish(self, block: Block, key: tuple, tags: list[int]) -> None:
        block.key = key
        self.index[key] = block
        self.contents[block] = tags

    def unpublish(self, block: Block) -> None:
        del self.index[block.key], self.contents[block]
        block.key = None

    # -- calls, by what the pool answered

    def find(self, name: int, *, resident: bool = True) -> Sequence:
        if name not in self.sequences or (resident and self.sequences[name].blocks is None):
            raise Refused("SEQUENCE")
        return self.sequences[name]

    def check_room(self) -> None:
        if len(self.resident) == self.rows or len(self.sequences) == self.max_sequences:
            raise Refused("TABLE_FULL")

    def matched(self, ids: list[int]) -> list[Block]:
        found = []
        for end in range(self.page_size, len(ids), self.page_size):
            block = self.index.get(tuple(ids[:end]))
            if block is None or len(found) == self.max_blocks:
                break
            found.append(block)
        return found

    def allocate(self, ids: list[int]) -> Sequence:
        self.check_room()
        made = Sequence(blocks=self.matched(ids))
        for block in made.blocks:
            self.refer(block)
            made.tags += self.contents[block]
        made.ids = ids[: len(made.tags)]
        made.committed_blocks = len(made.blocks)
        return made

    def tail(self, sequence: Sequence) -> Block | None:
        return sequence.blocks[-1] if sequence.length % self.page_size else None

    def check_append(self, names: list[int], counts: list[int]) -> None:
        needed, met = 0, []
        writers: dict[Block, int] = {}
        for name, count in zip(names, counts, strict=True):
            sequence = self.find(name)
            if name in met:
                raise Refused("VALUE")
            met.append(name)
            if sequence.length + count > self.max_blocks * self.page_size:
                raise Refused("CAPACITY")
            needed += self.count(sequence.length + count) - self.count(sequence.length)
            if count and self.tail(sequence) is not None:
                writers[self.tail(sequence)] = writers.get(self.tail(sequence), 0) + 1
        if sum(counts) > self.slots:
            raise Refused("CAPACITY")
        needed += sum(min(count, block.references - 1) for block, count in writers.items())
        if needed > self.free_blocks + len(self.cached):
            raise Refused("OUT_OF_BLOCKS")

    def append(self, names: list[int], ids: list[list[int]]) -> list[int]:
        """Returns the tags of the new tokens, in the order of their slots."""
        self.check_append(names, [len(new) for new in ids])
        for name, new in zip(names, ids, strict=True):
            sequence = self.sequences[name]
            tail = self.tail(sequence) if new else None
            if tail is None:
                continue
            if tail.references > 1:
                sequence.blocks[-1] = self.take()
                self.unrefer(tail)
            elif tail.key is not None:
                self.unpublish(tail)
        tags: list[int] = []
        for name, new in zip(names, ids, strict=True):
            sequence = self.sequences[name]
            missing = self.count(sequence.length + len(new)) - self.count(sequence.length)
            sequence.blocks += [self.take() for _ in range(missing)]
            made = [next(self.tag) for _ in new]
            sequence.ids += new
            sequence.tags += made
            sequence.shown = True
            tags += made
        return tags

    def commit(self, name: int, tokens: int) -> None:
        sequence = self.find(name)
        if tokens > sequence.length:
            raise Refused("VALUE")
        sequence.shown = True
        for i in range(sequence.committed_blocks, tokens // self.page_size):
            sequence.committed_blocks = i + 1
            key = tuple(sequence.ids[: (i + 1) * self.page_size])
            if i < sequence.head or sequence.blocks[i - sequence.head].key is not None or key in self.index:
                continue
            tags = sequence.tags[i * self.page_size : (i + 1) * self.page_size]
            self.publish(sequence.blocks[i - sequence.head], key, tags)

    def fork(self, name: int) -> Sequence:
        parent = self.find(name)
        self.check_room()
        parent.shown = True
        for block in parent.blocks:
            self.refer(block)
        return Sequence([*parent.ids], [*parent.tags], parent.head, [*parent.blocks], parent.committed_blocks)

    def drop(self, blocks: list[Block]) -> None:
        for block in reversed(blocks):
            self.unrefer(block)

    def truncate(self, name: int, length: int) -> None:
        sequence = self.find(name)
        if not sequence.head * self.page_size <= length <= sequence.length:
            raise Refused("VALUE")
        kept = self.count(length) - sequence.head
        self.drop(sequence.blocks[kept:])
        del sequence.blocks[kept:], sequence.ids[length:], sequence.tags[length:]
        sequence.committed_blocks = min(sequence.committed_blocks, length // self.page_size)
        sequence.shown = True

    def free_head(self, name: int, first: int) -> None:
        sequence = self.find(name)
        if not 0 <= first <= sequence.length:
            raise Refused("VALUE")
        gone = max(0, first // self.page_size - sequence.head)
        self.drop(sequence.blocks[:gone])
        del sequence.blocks[:gone]
        sequence.head += gone
        sequence.shown = True

    def free(self, name: int) -> None:
        sequence = self.find(name, resident=False)
        self.drop(sequence.blocks or [])
        del self.sequences[name]
        self.freed.append(name)

    def swap_out(self, name: int) -> None:
        sequence = self.find(name)
        if len(sequence.blocks) > self.free_host_blocks:
            raise Refused("OUT_OF_HOST_BLOCKS")
        self.drop(sequence.blocks)
        sequence.blocks = None

    def swap_in(self, name: int) -> None:
        sequence = self.find(name, resident=False)
        if sequence.blocks is not None:
            raise Refused("SEQUENCE")
        if len(self.resident) == self.rows:
            raise Refused("TABLE_FULL")
        numbers = range(sequence.head, self.count(sequence.length))
        keys = {i: tuple(sequence.ids[: (i + 1) * self.page_size]) for i in numbers if i < sequence.committed_blocks}
        there = {i: self.index[key] for i, key in keys.items() if key in self.index}
        available = self.free_blocks + len(self.cached) - sum(not block.references for block in there.values())
        if len(numbers) - len(there) > available:
            raise Refused("OUT_OF_BLOCKS")
        for i, block in there.items():
            self.refer(block)
            sequence.tags[i * self.page_size : (i + 1) * self.page_size] = self.contents[block]
        sequence.blocks = [there.get(i) or self.take() for i in numbers]
        sequence.shown = False
        for i, key in keys.items():
            if i not in there:
                tags = sequence.tags[i * self.page_size : (i + 1) * self.page_size]
                self.publish(sequence.blocks[i - sequence.head], key, tags)

    def hold(self, block: Block) -> None:
        self.refer(block)
        block.holds += 1

    def release(self, block: Block) -> None:
        block.holds -= 1
        self.unrefer(block)
