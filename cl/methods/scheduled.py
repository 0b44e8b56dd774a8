"""A number that changes over a run, as a closed form of the step: nothing to save, nothing to replay after a resume."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CosineRamp:
    """From `start` at step 0 to `end` after `steps` optimizer steps, along half a cosine (BYOL, arXiv 2006.07733)."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        return self.end - (self.end - self.start) * (1 + math.cos(math.pi * step / self.steps)) / 2


@dataclass(frozen=True)
class LinearWarmup:
    """From `start` at step 0 in a straight line to `end` at step `steps`, and `end` from then on."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        return self.end if step >= self.steps else self.start + (self.end - self.start) * step / self.steps
