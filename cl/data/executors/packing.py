"""Arrays in one buffer, so that a batch reaches the device in one copy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNMENT = 16  # bytes: the widest load of a GPU

Field = tuple[torch.dtype, tuple[int, ...]]  # type and shape


@dataclass(frozen=True)
class Packed:
    """Tensors one after another in `data`."""

    data: Tensor  # uint8
    fields: tuple[Field, ...]

    @staticmethod
    def empty(fields: Sequence[Field]) -> "Packed":
        return Packed(torch.empty(sum(map(_room, fields)), dtype=torch.uint8), tuple(fields))

    def tensors(self) -> list[Tensor]:
        """The fields, as views of `data`."""
        found = []
        begin = 0
        for dtype, shape in self.fields:
            found.append(self.data[begin : begin + _bytes((dtype, shape))].view(dtype).view(shape))
            begin += _room((dtype, shape))
        return found

    def pin_memory(self) -> "Packed":
        """torch's DataLoader calls this."""
        return replace(self, data=self.data.pin_memory())

    def to(self, device: torch.device) -> "Packed":
        return replace(self, data=self.data.to(device, non_blocking=True))


def pack(arrays: Sequence[NDArray[Any]], after: Sequence[Field] = ()) -> Packed:
    """Copies of `arrays` after uninitialised tensors of the types and shapes `after`."""
    tensors = [torch.from_numpy(array) for array in arrays]
    packed = Packed.empty([*after, *((tensor.dtype, tuple(tensor.shape)) for tensor in tensors)])
    for target, tensor in zip(packed.tensors()[len(after) :], tensors, strict=True):
        target.copy_(tensor)
    return packed


def _bytes(field: Field) -> int:
    dtype, shape = field
    return math.prod(shape) * dtype.itemsize


def _room(field: Field) -> int:
    return -(-_bytes(field) // ALIGNMENT) * ALIGNMENT
