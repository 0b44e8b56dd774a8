"""`--batch_size auto --dry_run`: the largest power of two of images that fits into memory."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from cl.errors import UserError
from cl.run.start.memory import Peak, available, format_bytes

SLOWEST = 20  # seconds of a step; larger ones are extrapolated
SPARE = 0.2  # of the free RAM: for loaders, evaluation and everybody else


class Trial(NamedTuple):
    images: int
    seconds: float
    peak: int  # bytes


def largest_batch(step: Callable[[int], object], most: int, device: torch.device) -> str:
    """Try a `step` with 2, 4, 8, ... images, at most `most`: a line for each, and which is the largest that fits.

    A GPU says so when its memory is full. On a CPU the kernel ends the process, so that it must not come to that: the
    next peak is estimated from the last two, and has to leave a part of the RAM free.
    """
    room = available() if device.type == "cpu" else None
    if room is None and device.type == "cpu":
        raise UserError("--batch_size: got auto, expected an integer: this system does not say how much memory is free")
    trials: list[Trial] = []
    peak = Peak(device)
    images = 2
    slow = False
    end = f"there are no more than {most} training images for it"
    while images <= most:
        needed = estimated(trials, images)
        if room is not None and needed > (1 - SPARE) * room:
            end = f"{images} would take {format_bytes(needed)} of the {format_bytes(room)} that are free, less a fifth"
            break
        if not slow:
            trial = _try(step, images, peak)
            if trial is None:
                end = f"the memory of the GPU is full at {images}"
                break
            trials.append(trial)
            slow = room is not None and len(trials) > 1 and trial.seconds > SLOWEST
        images *= 2
    largest = f"largest batch that fits: {images // 2}" if images > 2 else "not even 2 images fit"
    guess = f"; extrapolated, for a step of {trials[-1].images} images takes {trials[-1].seconds:.0f} s" if slow else ""
    return "\n".join([*map(_line, trials), f"{largest} ({end}{guess})"])


def _try(step: Callable[[int], object], images: int, peak: Peak) -> Trial | None:
    """None if the memory of the GPU is full."""
    began = time.perf_counter()
    try:
        step(images)
    except torch.OutOfMemoryError:
        return None
    return Trial(images, time.perf_counter() - began, peak.bytes() or 0)


def estimated(trials: Sequence[Trial], images: int) -> float:
    """The peak of so many images: a constant, and the same for each image. 0 before two trials."""
    if len(trials) < 2:
        return 0.0
    before, last = trials[-2:]
    return last.peak + (images - last.images) * (last.peak - before.peak) / (last.images - before.images)


def _line(trial: Trial) -> str:
    speed = trial.images / trial.seconds
    time = f"{trial.seconds:>7.2f} s a step"
    return f"  {trial.images:>8} images  {time}  {speed:>7.0f} images/s  {format_bytes(trial.peak)}"
