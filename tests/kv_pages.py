"""What caches of the formats hold, by the writers' oracle: tokens that tests put in, and the rows that they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ops.append_kv import oracle as formats

DEAD = 0xFF  # of every byte that is not attended: NaN as a code, as a scale and as a number of any type


def tokens(fmt: formats.Format, rows: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(bytes of a row, bytes of its scales) of each, with scales that a writer chooses, rounded or not, or others: the
    values are what the bytes say.
    """
    if fmt.scale == "call":
        yield from (formats.token_bytes(fmt, row) for row in rows)
        return
    tiles = rows[:, : fmt.quantized].reshape(len(rows), fmt.tiles, fmt.tile)
    scales = np.abs(tiles).max(2) / np.float32(448)
    powers = np.exp2(np.ceil(np.log2(scales)))
    scales = powers if fmt.scale == "e8m0" else np.where(rng.random(len(rows))[:, None] < 0.5, powers, scales)
    codes = formats.e4m3_codes((tiles / scales[..., None]).astype(np.float64)).reshape(len(rows), fmt.quantized)
    rope = formats.bf16_bits(rows[:, fmt.quantized :]).view(np.uint8)
    for token in range(len(rows)):
        row = np.concatenate([codes[token], rope[token]])
        yield row, formats.scale_bytes(scales[token].tolist(), fmt.scale)


def put_rows(
    fmt: formats.Format, pages: np.ndarray, slots: Iterable[int], rows: np.ndarray, rng: np.random.Generator
) -> None:
    """Writes rows of columns, float32, into the slots of pages (num_blocks, page_size, 1, bytes a token)."""
    for slot, token in zip(slots, tokens(fmt, rows, rng), strict=True):
        page, place = divmod(int(slot), pages.shape[1])
        formats.put(fmt, pages[page], place, *token)


def rows_of(fmt: formats.Format | None, kv_cache: np.ndarray, *, exact: bool = False) -> np.ndarray:
    """A cache of one KV head, or of rows as they are (None), as float64 in the place of its bytes. What is quantised is
    bfloat16 of code * scale, unless `exact`.
    """
    if fmt is None:
        return kv_cache.astype(np.float64)
    found = []
    with np.errstate(over="ignore", invalid="ignore"):
        for page in kv_cache.view(np.uint8):
            columns, rope = formats.get(fmt, page[:, 0], np.arange(len(page)))
            if exact:
                found.append(columns)
                continue
            bits = np.concatenate([formats.bf16_bits(columns.astype(np.float32)), rope], axis=-1)
            found.append(formats.widened(bits).astype(np.float64))
    return np.stack(found)[:, :, None]
