"""Where the caches of a test lie: NumPy's arrays, or PyTorch's tensors on a device."""

from __future__ import annotations

import numpy as np

import flashmla


class NumPyMemory:
    def made(self, array: np.ndarray):
        return array

    def host(self, array: np.ndarray):
        return array

    def write(self, layer, rows: np.ndarray, slots, page_size: int) -> None:
        """Puts rows where the slots say, as a caller would."""
        del page_size
        flashmla.append_kv(layer, rows, None, slots)

    def look_at(self, layer, pages: list[int], rows: np.ndarray) -> None:
        """Work that reads the rows of a sequence may be compared with them."""

    def poison(self, layer, pages: list[int]) -> None:
        layer[pages] = np.nan

    def read(self, tensor) -> np.ndarray:
        return np.asarray(tensor)


class TorchMemory:
    """Rows of float32, which GPU kernels do not write, are written by PyTorch."""

    def __init__(self, device: str) -> None:
        import torch

        self.torch, self.device = torch, device

    def made(self, array: np.ndarray):
        return self.torch.as_tensor(array).to(self.device)

    def host(self, array: np.ndarray):
        tensor = self.torch.as_tensor(array)
        return tensor.pin_memory() if self.device != "cpu" else tensor

    def write(self, layer, rows: np.ndarray, slots, page_size: int) -> None:
        page, place = (self.made(part) for part in np.divmod(slots, page_size))
        layer[page, place, 0] = self.made(rows)

    def look_at(self, layer, pages: list[int], rows: np.ndarray) -> None:
        found = layer[pages].reshape(-1, rows.shape[1])[: len(rows)]
        assert self.torch.equal(found, self.made(rows)), "work read what was not there yet"

    def poison(self, layer, pages: list[int]) -> None:
        layer[pages] = float("nan")

    def read(self, tensor) -> np.ndarray:
        return tensor.cpu().numpy()
