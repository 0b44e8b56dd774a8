"""The reference executor: torchvision's own functions on one image and one view. Slow; tests compare the others to it.

Crop and antialiased resize on uint8, everything from colour on in float32; of more than three channels all in float32.
"""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from cl.batch import Batch
from cl.config.data import COLOURS
from cl.config.views import sides
from cl.data.executors.base import Executor, epoch_and_index
from cl.data.images import ImageSet, expect
from cl.data.sampler import SampleKey
from cl.data.views.draws import Ints, ViewParams, crop_boxes, draw
from cl.data.views.rows import RandomViews, ViewPlanner
from cl.data.views.spec import EvalSpec, Norm, ViewSpec


class TorchvisionExecutor(Executor):
    """The executor of `--loader torchvision`: workers do everything."""

    def __init__(self, images: ImageSet, planner: ViewPlanner, norm: Norm, device: torch.device) -> None:
        self.images = images
        self.planner = planner
        self.norm = norm
        self.device = device

    def read(self, keys: list[SampleKey]) -> Batch:
        epoch, index = epoch_and_index(keys)
        expect(self.images, index.tolist())
        images = [self.images.read(i) for i in index.tolist()]
        if isinstance(self.planner, RandomViews):
            views = random_views(images, self.planner, epoch, index)
        else:
            spec = self.planner.spec
            views = (torch.stack([apply_eval(image, spec) for image in images])[None],)
        views = tuple(normalize(view, self.norm) for view in views)
        return Batch(torch.from_numpy(index), views, torch.from_numpy(self.images.targets[index].astype(np.int64)))

    def to_batch(self, read: Batch) -> Batch:
        return read.to(self.device)


def random_views(images: list[Tensor], planner: RandomViews, epoch: int, index: Ints) -> tuple[Tensor, ...]:
    """The views [V, B, C, S, S] of each resolution, for `images` with the data set indices `index` [B]."""
    sizes = np.array([image.shape[1:] for image in images])
    views = []
    number = 0
    for same_size in planner.views:
        stacks = []
        for spec in same_size:
            params = draw(spec, planner.seed, epoch, index, view=number)
            boxes = crop_boxes(params, spec, height=sizes[:, 0], width=sizes[:, 1])
            stacks.append(torch.stack([apply_view(image, spec, params, i, boxes[i]) for i, image in enumerate(images)]))
            number += 1
        views.append(torch.stack(stacks))
    return tuple(views)


def apply_view(image: Tensor, spec: ViewSpec, params: ViewParams, i: int, box: Ints) -> Tensor:
    """Apply row `i` of `params` to `image` [C, H, W], as it is decoded, -> [C, *size] float32 in [0, 1].

    `box` [4] is the top, left, height and width of the crop (`draws.crop_boxes`).
    """
    top, left, height, width = box.tolist()
    image = F.resized_crop(image, top, left, height, width, list(sides(spec.size)), antialias=True)
    if params.flip[i]:
        image = F.horizontal_flip(image)
    image = F.to_dtype(image, torch.float32, scale=True)
    if params.jitter[i]:
        image = _jitter(image, spec, params, i)
    if params.grey[i] and len(image) == 3:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    if params.blur[i]:
        image = F.gaussian_blur(image, [spec.blur_kernel] * 2, [float(params.sigma[i])] * 2)
    if params.solarize[i]:
        image = F.solarize(image, threshold=128 / 255)
    return image


def _jitter(image: Tensor, spec: ViewSpec, params: ViewParams, i: int) -> Tensor:
    """Apply the colour operations of non-zero strength in the drawn order.

    Of more than three channels each is jittered as a grey image, all by the same factors.
    """
    jittered = image[:, None] if len(image) > COLOURS else image
    operations = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    strengths = (spec.brightness, spec.contrast, spec.saturation, spec.hue)
    for k in params.order[i].tolist():
        if strengths[k] > 0:
            jittered = operations[k](jittered, float(params.factors[i, k]))
    return jittered.view_as(image)


def apply_eval(image: Tensor, spec: EvalSpec) -> Tensor:
    """The evaluation view of `image` [C, H, W], as it is decoded, -> [C, *size] float32 in [0, 1]."""
    height, width = sides(spec.resize)
    rows, columns = image.shape[1:]
    # Keeps far more than the final crop takes, but stops a line of 1 x 1000 pixels from growing to 256 x 256000.
    rows = min(rows, max(4 * columns * height // width, 1))
    columns = min(columns, max(4 * rows * width // height, 1))
    image = F.center_crop(image, [rows, columns])
    resized = (
        [height, height * columns // rows] if height * columns >= width * rows else [width * rows // columns, width]
    )
    image = F.resize(image, resized, F.InterpolationMode(spec.interpolation), antialias=True)
    return F.to_dtype(F.center_crop(image, list(sides(spec.size))), torch.float32, scale=True)


def normalize(view: Tensor, norm: Norm) -> Tensor:
    """(view - mean) / std per channel; any [..., C, H, W]."""
    return F.normalize(view, list(norm[0]), list(norm[1]))
