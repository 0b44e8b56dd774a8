"""Weighted means over an epoch. Sums stay on the device: adding never waits for it, and a step costs one update."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from cl.distributed import gather_dicts

Keys = tuple[str, ...]  # names in the order in which their sums lie in a tensor
Sums = Mapping[Keys, Tensor]  # float64 [n, 2]: sum and weight of each name


class EpochMeans:
    """Means by name. What a step adds is kept until the next one begins, and then added as one tensor."""

    def __init__(self) -> None:
        self._pending: dict[str, tuple[Tensor, Tensor]] = {}
        self._sums: dict[Keys, Tensor] = {}  # steps that add other names have their own tensor
        self._starts: dict[Keys, Tensor] = {}  # what `_sums` began with: 0, or the sums of a checkpoint
        self._loaded: dict[str, tuple[float, float]] = {}  # of a checkpoint, for names that no step has added yet

    def add(self, name: str, total: Tensor, weight: Tensor | int) -> None:
        """`total` is a sum over `weight` items; both are scalars."""
        if name in self._pending:
            self.flush()
        weight = weight if isinstance(weight, Tensor) else _constant(weight, total.device)
        self._pending[name] = (total.detach(), weight)

    def flush(self) -> None:
        """Add what is pending to the sums."""
        if not self._pending:
            return
        keys = tuple(self._pending)
        values = _as_doubles([value for pair in self._pending.values() for value in pair]).view(-1, 2)
        if keys not in self._sums:
            start = [self._loaded.pop(key, (0.0, 0.0)) for key in keys]
            self._starts[keys] = torch.tensor(start, dtype=torch.float64).to(values.device)
            self._sums[keys] = self._starts[keys]
        self._sums[keys] = self._sums[keys] + values
        self._pending = {}

    def compute(self, all_processes: bool = True) -> dict[str, float]:
        """The means so far, of all processes (each must call this) or of this one; names without weight are skipped."""
        sums = merged(gather_dicts(self.state()) if all_processes else [self.state()])
        return {name: total / weight for name, (total, weight) in sums.items() if weight > 0}

    def state(self) -> dict[str, tuple[float, float]]:
        """Sum and weight by name, for this process."""
        self.flush()
        sums: dict[str, tuple[float, float]] = {}
        for keys, values in self._sums.items():
            _add_state(sums, dict(zip(keys, map(tuple, values.tolist()), strict=True)))
        _add_state(sums, self._loaded)
        return sums

    def copy(self) -> Sums:
        self.flush()
        return dict(self._sums)  # a shallow copy will do: `flush` never changes a tensor in place

    def restore_unless(self, taken: Tensor, sums: Sums) -> None:
        """Go back to `sums` unless `taken` (scalar on the device) is true."""
        self.flush()
        for keys, now in self._sums.items():
            before = sums[keys] if keys in sums else self._starts[keys]
            self._sums[keys] = torch.where(taken, now, before)

    def load(self, state: Mapping[str, Sequence[float]]) -> None:
        self.reset()
        self._loaded = {name: (total, weight) for name, (total, weight) in state.items()}

    def reset(self) -> None:
        self._pending = {}
        self._sums = {}
        self._starts = {}
        self._loaded = {}


def merged(states: Iterable[Mapping[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """The sums of several processes as those of one."""
    sums: dict[str, tuple[float, float]] = {}
    for state in states:
        _add_state(sums, state)
    return sums


def _add_state(sums: dict[str, tuple[float, float]], state: Mapping[str, tuple[float, ...]]) -> None:
    for name, (total, weight) in state.items():
        previous = sums.get(name, (0.0, 0.0))
        sums[name] = (previous[0] + total, previous[1] + weight)


def _as_doubles(values: Sequence[Tensor]) -> Tensor:
    """Scalars of several types -> float64 [n], with one stack per type."""
    by_type: dict[torch.dtype, list[int]] = {}
    for i, value in enumerate(values):
        by_type.setdefault(value.dtype, []).append(i)
    parts = [torch.stack([values[i] for i in chosen]).double() for chosen in by_type.values()]
    order = [i for chosen in by_type.values() for i in chosen]
    return torch.cat(parts)[_inverse(tuple(order), values[0].device)]


@cache
def _inverse(order: tuple[int, ...], device: torch.device) -> Tensor:
    """The positions of 0, 1, 2, ... in `order`, copied to the device once."""
    return torch.tensor(order).argsort().to(device)


@cache
def _constant(value: int, device: torch.device) -> Tensor:
    """A scalar, copied to the device once."""
    return torch.tensor(value, dtype=torch.float64, device=device)
