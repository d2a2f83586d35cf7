"""Rotary position embeddings as MLA models have them: of pairs or of halves, stretched by YaRN or not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Yarn:
    """YaRN (arXiv 2309.00071), `rope_scaling` of configurations; `mscale_all_dim` 0 leaves the softmax scale alone."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0

    def _grown(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

    @property
    def amplitude(self) -> float:
        """What cosines and sines are multiplied with."""
        if self.mscale and self.mscale_all_dim:
            return self._grown(self.mscale) / self._grown(self.mscale_all_dim)
        return self._grown(1.0)

    @property
    def softmax_factor(self) -> float:
        """What the softmax scale is multiplied with."""
        return self._grown(self.mscale_all_dim) ** 2

    def stretched(self, frequencies: torch.Tensor, theta: float) -> torch.Tensor:
        """Frequencies that turn often within the original length stay, slow ones are divided by the factor."""
        dim = 2 * frequencies.numel()

        def pair_that_turns(times: float) -> float:
            length = self.original_max_position_embeddings / (times * 2 * math.pi)
            return dim * math.log(length) / (2 * math.log(theta))

        low = max(math.floor(pair_that_turns(self.beta_fast)), 0)
        high = min(math.ceil(pair_that_turns(self.beta_slow)), dim - 1)
        pairs = torch.arange(dim // 2, dtype=torch.float32, device=frequencies.device)
        slow = ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)
        return frequencies / self.factor * slow + frequencies * (1 - slow)


@dataclass(frozen=True)
class Rope:
    """How the RoPE columns of queries and keys turn with their position.

    interleaved   columns 2i and 2i + 1 are a pair (DeepSeek); False: i and i + dim / 2 (MiniCPM3)
    """

    theta: float = 10000.0
    interleaved: bool = True
    yarn: Yarn | None = None

    @property
    def softmax_factor(self) -> float:
        """What the softmax scale is multiplied with."""
        return self.yarn.softmax_factor if self.yarn else 1.0

    def tables(self, positions: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of tokens, (tokens, dim / 2) float32 each."""
        exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device) / dim
        frequencies = self.theta**-exponents
        if self.yarn:
            frequencies = self.yarn.stretched(frequencies, self.theta)
        angles = positions[:, None].float() * frequencies
        amplitude = self.yarn.amplitude if self.yarn else 1.0
        return angles.cos() * amplitude, angles.sin() * amplitude

    def rotated(self, columns: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Columns (tokens, ..., dim), turned in float32. Pairs come out as halves, of queries and keys alike."""
        wide = columns.float()
        first, second = (wide[..., 0::2], wide[..., 1::2]) if self.interleaved else wide.chunk(2, -1)
        shape = cos.shape[0], *(1,) * (columns.ndim - 2), cos.shape[1]
        cos, sin = cos.view(shape), sin.view(shape)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(columns.dtype)
