"""What stands between two attention calls of the demo.

Not a language model: fixed random vectors instead of trained matrices. But each token's query and cached latent follow
from the attention before it, so a wrong result changes every token after it, as in a model. The MLA shapes are
DeepSeek's: a latent of 512 + 64 numbers (NoPE and RoPE part), whose first 512 are also the value.
"""

import numpy as np

from arrays import Array

D_QK = 576
D_V = 512
VOCABULARY = 512
BANK_TOKENS = 8192  # prompts are stretches of one bank of random latents a layer


class StandInModel:
    def __init__(self, arrays: object, layers: int, heads: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._arrays, self._xp = arrays, arrays.xp

        def normal(*shape: int) -> Array:
            return arrays.from_host(rng.standard_normal(shape, np.float32))

        def signs(*shape: int) -> Array:
            return arrays.from_host(rng.choice(np.array([-1, 1], np.float32), shape))

        self._embedding = normal(VOCABULARY, D_QK)
        # Signs, so that queries and latents keep the unit variance of the hidden state: error bounds are for that.
        self._latent_weight = [signs(D_QK) for _ in range(layers)]
        self._query_weight = [signs(heads, D_QK) for _ in range(layers)]
        self._head_weight = [normal(heads, 1) for _ in range(layers)]
        self._prompt_bank = [arrays.cast(normal(BANK_TOKENS, D_QK)) for _ in range(layers)]

    def prompt_latents(self, layer: int, request: int, tokens: int) -> Array:
        """(tokens, D_QK): what a prefill of this request would have left in the cache."""
        at = (np.arange(tokens) + 7919 * request) % BANK_TOKENS  # 7919: a prime, so that requests start apart
        return self._prompt_bank[layer][self._arrays.from_host(at)]

    def embed(self, tokens: Array) -> Array:
        """(batch, D_QK) hidden states of one new token a request."""
        return self._embedding[tokens]

    def latent(self, layer: int, hidden: Array) -> Array:
        """(batch, D_QK), to be written to the cache."""
        return self._arrays.cast(hidden * self._latent_weight[layer])

    def query(self, layer: int, hidden: Array) -> Array:
        """(batch, 1, heads, D_QK)."""
        return self._arrays.cast(hidden[:, None, None, :] * self._query_weight[layer])

    def after_attention(self, layer: int, hidden: Array, out: Array) -> Array:
        """Adds the heads' outputs (batch, 1, heads, D_V) to the hidden state and brings it back to unit size."""
        mixed = (self._arrays.float32(out)[:, 0] * self._head_weight[layer]).sum(1)
        hidden = hidden + self._xp.concatenate((mixed, mixed[:, : D_QK - D_V]), 1)
        return hidden / (hidden * hidden).mean(1)[:, None] ** 0.5

    def next_token(self, hidden: Array) -> Array:
        """(batch,) token numbers: the largest component.

        No matrix product: with NumPy its BLAS threads would go on spinning and take the cores from the next attention.
        """
        return hidden[:, :VOCABULARY].argmax(1)
