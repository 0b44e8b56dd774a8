from dataclasses import dataclass
from typing import Annotated

from cl.config.flags import Config, Flag, as_typed
from cl.errors import UserError
from cl.machine.cores import cores_per_process

DATASETS = ("digits", "cifar10", "cifar100", "stl10", "imagenet100", "imagenet", "custom")
BUILT_IN = ("digits",)  # with validation images, like the archives
ARCHIVES = ("cifar10", "cifar100", "stl10")  # from torchvision; class folders work as well
COLOURS = 3  # channels; images of more are read by other decoders, as floats, and have no hue
ASSUMED = "assumed to suit the weights, which do not say theirs"  # the origin of mean and std that nobody gives


@dataclass(frozen=True)
class DataConfig(Config):
    """Images, and how they are loaded."""

    dataset: Annotated[str, Flag("data set", choices=DATASETS, positional=True)] = "digits"
    data_folder: Annotated[str | None, Flag("folder that --train_dir and --val_dir are relative to", resume="free")] = (
        None
    )
    train_dir: Annotated[
        str | None,
        Flag(
            "folder of training images, one folder per class; or tar/GLOB of shards, hf/PATH of a table", resume="free"
        ),
    ] = None
    val_dir: Annotated[
        str | None,
        Flag(
            "folder of validation images, one folder per class; or tar/GLOB of shards, hf/PATH of a table",
            resume="free",
        ),
    ] = None
    labels: Annotated[str | None, Flag("CSV file of file names and labels, for a flat folder", resume="free")] = None
    image_column: Annotated[
        str | None, Flag("column of hf/PATH that has the encoded images; by default image", resume="free")
    ] = None
    label_column: Annotated[
        str | None,
        Flag(
            "what has the label: of tar/GLOB a field of KEY.json (by default the text of KEY.cls), of hf/PATH a column "
            "(by default label, if there is one)",
            resume="free",
        ),
    ] = None
    hold_out: Annotated[
        float | None,
        Flag(
            "hold out this fraction (below 1) or number of training images for validation; at least 300 if there are "
            "600 or more, at most half; near duplicates stay together",
            above=0,
        ),
    ] = None
    in_channels: Annotated[
        int, Flag("3 for colour, 1 for grey, 4 or more for TIFF and .npy files", low=1, high=1024)
    ] = 3
    mean: Annotated[
        tuple[float, ...] | None,
        Flag(
            "mean of each channel, of pixels from 0 to 1; by default as the weights' were, else the data set's",
            low=0,
            high=1,
        ),
    ] = None
    std: Annotated[
        tuple[float, ...] | None, Flag("standard deviation of each channel, with --mean", above=0, high=1)
    ] = None
    limit_eval: Annotated[int | None, Flag("validate on this many images, a fixed stratified subset", low=1)] = None
    batch_size: Annotated[int, Flag("images per process and step", low=2, resume="free")] = 256
    num_workers: Annotated[
        int | None,
        Flag(
            "loader processes per training process, 0 for none; by default one core is left free",
            low=0,
            high=1024,
            resume="free",
        ),
    ] = None
    loader: Annotated[
        str,
        Flag(
            "what makes the views: fast (workers crop, the device does the rest; small data sets stay on the device), "
            "torchvision (workers do everything: the reference) or dali",
            choices=("fast", "torchvision", "dali"),
            shorthands={"--dali": "dali"},
        ),
    ] = "fast"
    dali_device: Annotated[
        str | None, Flag("where DALI decodes; by default on the training GPU, else on the CPU", choices=("gpu", "cpu"))
    ] = None
    cache: Annotated[
        str,
        Flag(
            "read copies with a short side of at most 256 pixels, stored once as JPEG or as raw pixels",
            choices=("none", "jpeg256", "raw256"),
        ),
    ] = "none"
    cache_dir: Annotated[
        str | None, Flag("folder of --cache and --remote_cache; by default in the user's cache", resume="free")
    ] = None
    shuffle: Annotated[
        str,
        Flag(
            "order of the training images; images: fully random; shards: shards in random order, --shuffle_window of "
            "them mixed (for slow disks)",
            choices=("images", "shards"),
        ),
    ] = "images"
    shuffle_window: Annotated[int, Flag("shards that are mixed under --shuffle shards", low=1)] = 16
    remote_cache: Annotated[
        float | None,
        Flag("GB of remote shards to keep on this machine, in --cache_dir; none by default", above=0, resume="free"),
    ] = None
    last_batch_fill: Annotated[bool, Flag("use every image in every epoch and fill up the last batch")] = False
    resident: Annotated[
        str,
        Flag(
            "keep decoded images on the device, so that no worker reads them: auto does so for small ones of one size, "
            "and on a GPU for others that take at most half of its free memory; on for all that fit; off for none",
            choices=("auto", "on", "off"),
            resume="free",
        ),
    ] = "auto"
    bad_images: Annotated[
        str,
        Flag(
            "what to do with files that do not decode: skip or error after a first look at every file, which is "
            "remembered; trust looks at training images when they are needed, and the next one takes a bad one's place",
            choices=("skip", "error", "trust"),
        ),
    ] = "skip"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.in_channels == 2:
            raise UserError("--in_channels: got 2, expected 1 or 3, or 4 and more")
        if self.in_channels > COLOURS and self.loader == "dali":
            raise UserError(f"--loader: got dali with --in_channels {self.in_channels}, expected fast or torchvision")
        if self.in_channels > COLOURS and self.cache == "jpeg256":
            raise UserError(f"--cache: got jpeg256 with --in_channels {self.in_channels}, expected raw256 or none")
        if self.hold_out is not None:
            self._check_hold_out(self.hold_out)
        for name, values, other in (("mean", self.mean, self.std), ("std", self.std, self.mean)):
            if values is None and other is not None:
                raise UserError(f"--{name}: not given, expected it too: --mean and --std must be given together")
            if values is not None and len(values) != self.in_channels:
                raise UserError(
                    f"--{name}: got {as_typed(values)}, expected {self.in_channels} numbers, one per input channel"
                )

    def _check_hold_out(self, wanted: float) -> None:
        if wanted >= 1 and wanted != int(wanted):
            raise UserError(f"--hold_out: got {wanted:g}, expected a fraction below 1 or a whole number")
        if self.val_dir is not None:
            raise UserError(f"--hold_out: got {wanted:g} with --val_dir {self.val_dir}, expected one of the two")
        if self.train_dir is None:
            reason = f": {self.dataset} has validation images" if self.dataset in BUILT_IN + ARCHIVES else ""
            raise UserError(f"--hold_out: got {wanted:g} without --train_dir, expected both{reason}")

    @property
    def norm(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std of the flags, if they are set."""
        return None if self.mean is None or self.std is None else (self.mean, self.std)

    def workers(self) -> int:
        """Loader processes; the default is at most eight: more are seldom needed, and each takes memory."""
        return self.num_workers if self.num_workers is not None else min(8, cores_per_process() - 1)
