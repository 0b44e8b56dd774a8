"""`--batch_size auto --dry_run`: find the largest power of two of images that fits into memory."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from cl.errors import UserError, format_bytes
from cl.run.start.memory import Peak, available_memory

SLOWEST = 20  # seconds per step; larger batches are extrapolated
SPARE = 0.2  # of the free RAM: for loaders, evaluation and other programs


class Trial(NamedTuple):
    images: int
    seconds: float
    peak: int  # bytes


def largest_batch(step: Callable[[int], object], max_images: int, device: torch.device) -> str:
    """Try `step` with 2, 4, 8, ... images, at most `max_images`: a line per trial, and the largest that fits.

    A GPU reports that its memory is full. On a CPU the kernel would kill the process, so the next peak is estimated
    from the last two and must leave part of the RAM free.
    """
    on_cpu = device.type == "cpu"
    free = available_memory() if on_cpu else None
    if on_cpu and free is None:
        raise UserError("--batch_size: got auto, expected an integer: this system does not report its free memory")
    trials: list[Trial] = []
    peak = Peak(device)
    images = 2
    extrapolate = False
    reason = f"only {max_images} training images are available"
    while images <= max_images:
        needed = estimated_peak(trials, images)
        if free is not None and needed > (1 - SPARE) * free:
            reason = (
                f"{images} would need {format_bytes(needed)} of the {format_bytes(free)} that are free, less a fifth"
            )
            break
        if not extrapolate:
            trial = _try(step, images, peak)
            if trial is None:
                reason = f"GPU memory is full at {images}"
                break
            trials.append(trial)
            extrapolate = free is not None and len(trials) > 1 and trial.seconds > SLOWEST
        images *= 2
    if extrapolate:
        reason += f"; extrapolated, because a step of {trials[-1].images} images takes {trials[-1].seconds:.0f} s"
    result = f"largest batch that fits: {images // 2}" if images > 2 else "not even 2 images fit"
    return "\n".join([*map(_line, trials), f"{result} ({reason})"])


def _try(step: Callable[[int], object], images: int, peak: Peak) -> Trial | None:
    """Time one step; None if GPU memory is full."""
    start = time.perf_counter()
    try:
        step(images)
    except torch.OutOfMemoryError:
        return None
    seconds = time.perf_counter() - start
    used = peak.bytes()
    if used is None:
        raise UserError("--batch_size: got auto, expected an integer: this system does not report a process's memory")
    return Trial(images, seconds, used)


def estimated_peak(trials: Sequence[Trial], images: int) -> float:
    """The peak in bytes, linear in the number of images; 0 before two trials."""
    if len(trials) < 2:
        return 0.0
    (previous, last) = trials[-2:]
    return last.peak + (images - last.images) * (last.peak - previous.peak) / (last.images - previous.images)


def _line(trial: Trial) -> str:
    speed = trial.images / trial.seconds
    time = f"{trial.seconds:>7.2f} s a step"
    return f"  {trial.images:>8} images  {time}  {speed:>7.0f} images/s  {format_bytes(trial.peak)}"
