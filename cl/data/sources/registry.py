"""The registry: the source of each data set's images, and the known mean and std of their pixels."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from cl.config.data import DataConfig
from cl.data.images import Splits, stratified
from cl.data.sources.archives import archive
from cl.data.sources.digits import digits
from cl.data.sources.folders import folders
from cl.data.splitting.hold_out import hold_out
from cl.data.views.spec import Norm
from cl.distributed import gather_dicts, rank_zero_first
from cl.errors import UserError

Source = Callable[[DataConfig, Norm | None], Splits]  # norm: None if it has to be measured
SOURCES: Mapping[str, Source] = {"digits": digits, "archive": archive, "folders": folders}

IMAGENET: Norm = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMS: Mapping[str, Norm] = {  # of the training images' pixels, in colour
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "stl10": ((0.4408, 0.4279, 0.3867), (0.2683, 0.2610, 0.2687)),
    "imagenet100": IMAGENET,
    "imagenet": IMAGENET,
}


def load(config: DataConfig, norm: Norm | None = None) -> Splits:
    """Load the data set that the flags name; `norm` saves measuring it."""
    known = NORMS.get(config.dataset) if config.in_channels == 3 else None
    splits = SOURCES[source_of(config)](config, norm or known)
    if config.hold_out is not None:
        splits = hold_out(splits, config.hold_out)
    if config.limit_eval is not None and splits.val is not None:
        splits = replace(splits, val=stratified(splits.val, config.limit_eval))
    return splits


def load_on_all_ranks(config: DataConfig) -> Splits:
    """`load` on every rank, on rank 0 first; UserError if a rank could not read the files that rank 0 read."""
    splits = rank_zero_first(lambda: load(config))
    counts = {"training": len(splits.train), "validation": len(splits.val or ())}
    of_ranks = gather_dicts({"counts": counts, "bad": sorted(map(str, splits.bad))})
    for number, found in enumerate(of_ranks):
        if found != of_ranks[0]:
            raise UserError(
                f"--train_dir: process {number} can read {found['counts']} images, expected {of_ranks[0]['counts']} as "
                "process 0, and the same files; all of them must be readable on every node"
            )
    return splits


def source_of(config: DataConfig) -> str:
    """The name of the source: one of SOURCES."""
    if config.dataset == "digits":
        return "digits"
    return "archive" if config.train_dir is None else "folders"
