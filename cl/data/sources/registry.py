"""The registry: the source of each data set's images, and the known mean and std of their pixels."""

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from cl.config.data import ASSUMED, DataConfig
from cl.data.images import EncodedSet, ImageSet, Shared, Splits, stratified
from cl.data.sources.archives import archive
from cl.data.sources.digits import digits
from cl.data.sources.labelling import places
from cl.data.sources.places import Name
from cl.data.splitting.hold_out import hold_out
from cl.data.views.norm import NORM_IMAGES
from cl.data.views.spec import Norm
from cl.distributed import gather_dicts, rank, rank_zero_first, world_size
from cl.errors import UserError

Source = Callable[[DataConfig, Norm | None], Splits]  # norm: None if it has to be measured
SOURCES: Mapping[str, Source] = {"digits": digits, "archive": archive, "places": places}

IMAGENET: Norm = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMS: Mapping[str, Norm] = {  # of the training images' pixels, in colour
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "stl10": ((0.4408, 0.4279, 0.3867), (0.2683, 0.2610, 0.2687)),
    "imagenet100": IMAGENET,
    "imagenet": IMAGENET,
}


class SharedSplits(NamedTuple):
    """What another process of the machine needs to have the same splits, without looking at any file."""

    train: Shared
    val: Shared | None
    classes: tuple[str, ...]
    norm: Norm
    norm_origin: str
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    bad: Mapping[Name, str]


def load(config: DataConfig, norm_origin: str = "typed") -> Splits:
    """Load the data set that the flags name; `norm_origin` says where their mean and std come from."""
    return _divided(config, _read(config, norm_origin))


def _read(config: DataConfig, norm_origin: str) -> Splits:
    known = NORMS.get(config.dataset) if config.in_channels == 3 else None
    splits = SOURCES[source_of(config)](config, config.norm or known)
    if config.norm is None:
        of_data = f"of {config.dataset}" if known or config.dataset == "digits" else measured(splits.train)
        norm_origin = f"{of_data}; {norm_origin}" if norm_origin == ASSUMED else of_data
    return replace(splits, norm_origin=norm_origin)


def _divided(config: DataConfig, splits: Splits) -> Splits:
    """What the flags make of the images of the source: --hold_out, --limit_eval."""
    if config.hold_out is not None:
        splits = hold_out(splits, config.hold_out)
    if config.limit_eval is not None and splits.val is not None:
        splits = replace(splits, val=stratified(splits.val, config.limit_eval))
    return splits


def measured(images: ImageSet) -> str:
    """How `measure_norm` came by mean and std."""
    return f"measured on {min(len(images), NORM_IMAGES)} training images"


def load_on_all_ranks(config: DataConfig, norm_origin: str = "typed") -> Splits:
    """`load` on every rank, on rank 0 first; UserError if a rank could not read the files that rank 0 read."""
    splits = _read_once_per_machine(config, norm_origin) if world_size() > 1 else _read(config, norm_origin)
    splits = _divided(config, splits)
    counts = f"{len(splits.train)} training and {len(splits.val or ())}"
    of_ranks = gather_dicts({"counts": counts, "bad": sorted(map(str, splits.bad))})
    for number, found in enumerate(of_ranks):
        if found != of_ranks[0]:
            raise UserError(
                f"--train_dir: process {number} reads {found['counts']} validation images, process 0 "
                f"{of_ranks[0]['counts']}; expected the same files on every node"
            )
    return splits


def _read_once_per_machine(config: DataConfig, norm_origin: str) -> Splits:
    """The first process of each machine, rank 0 before the others, looks at the files; the rest map what it found."""
    machines = [of_rank["machine"] for of_rank in gather_dicts({"machine": machine_name()})]
    first = machines.index(machines[rank()])
    splits = rank_zero_first(lambda: _read(config, norm_origin) if rank() == first else None)
    shared = gather_dicts({"splits": _shared(splits)})[first]["splits"]
    if splits is None and shared is not None:
        splits = _opened(shared)
    return splits if splits is not None else _read(config, norm_origin)


def machine_name() -> str:
    """The same for processes that see the same files: of one host, with the same mounts."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/mnt')}"
    except OSError:
        return socket.gethostname()


def _shared(splits: Splits | None) -> SharedSplits | None:
    """None for images that are not mapped from an index."""
    if splits is None:
        return None
    train = _shared_set(splits.train)
    val = _shared_set(splits.val)
    if train is None or (val is None) != (splits.val is None):
        return None
    return SharedSplits(
        train, val, splits.classes, splits.norm, splits.norm_origin, splits.notes, splits.left_out, splits.bad
    )


def _shared_set(images: ImageSet | None) -> Shared | None:
    return images.shared() if isinstance(images, EncodedSet) else None


def _opened(shared: SharedSplits) -> Splits | None:
    try:
        train = shared.train.open()
        val = shared.val.open() if shared.val is not None else None
    except OSError:  # replaced by that of another run in the meantime
        return None
    return Splits(train, val, *shared[2:])


def source_of(config: DataConfig) -> str:
    """The name of the source: one of SOURCES."""
    if config.dataset == "digits":
        return "digits"
    return "archive" if config.train_dir is None else "places"
