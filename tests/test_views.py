"""The reference executor does exactly what torchvision's transforms do."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from cl.cli import parse
from cl.config.data import DATASETS
from cl.config.programs import Pretrain
from cl.config.views import PretrainViewsConfig
from cl.data.executors.torchvision import apply_eval, apply_view, normalize
from cl.data.views.draws import ViewParams, draw
from cl.data.views.spec import EvalSpec, Views, ViewSpec, pretrain_views


@pytest.fixture
def image() -> torch.Tensor:
    """A smooth picture with all hues, uint8 [3, 40, 60]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 60), indexing="ij")
    return (torch.stack([x, y, (x - y).abs()]) * 255).to(torch.uint8)


def neutral_params(spec: ViewSpec, **changed: object) -> ViewParams:
    """Parameters of one view in which only the given fields have an effect."""
    inactive = {name: np.array([False]) for name in ("flip", "jitter", "grey", "blur", "solarize")}
    return draw(spec, 0, 0, np.array([0]), 0)._replace(**inactive)._replace(**changed)  # type: ignore[arg-type]


ON = np.array([True])
SPEC = ViewSpec(32, jitter_prob=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
LARGE = ViewSpec(224)


def resized_crop(image: torch.Tensor, spec: ViewSpec = SPEC) -> torch.Tensor:
    """Crop and resize as uint8, then float: what every other operation starts from."""
    resized = F.resized_crop(image, 5, 10, 20, 30, [spec.size, spec.size], antialias=True)
    return F.to_dtype(resized, torch.float32, scale=True)


def view_with(image: torch.Tensor, spec: ViewSpec, **changed: object) -> torch.Tensor:
    return apply_view(image, spec, neutral_params(spec, **changed), 0, np.array([5, 10, 20, 30]))


def test_a_view_is_cropped_and_resized(image: torch.Tensor) -> None:
    view = view_with(image, SPEC)
    assert view.dtype == torch.float32
    assert torch.equal(view, resized_crop(image))


def test_a_crop_of_the_complete_image_at_its_own_size_changes_nothing(image: torch.Tensor) -> None:
    square = image[:, :, :40]
    view = apply_view(square, ViewSpec(40), neutral_params(ViewSpec(40)), 0, np.array([0, 0, 40, 40]))
    assert torch.equal(view, F.to_dtype(square, torch.float32, scale=True))


def test_flip_grey_and_solarize_follow_their_definitions(image: torch.Tensor) -> None:
    assert torch.equal(view_with(image, SPEC, flip=ON), resized_crop(image).flip(-1))
    assert torch.equal(view_with(image, SPEC, grey=ON), F.rgb_to_grayscale(resized_crop(image), 3))
    crop = resized_crop(image)
    assert torch.equal(view_with(image, SPEC, solarize=ON), torch.where(crop >= 128 / 255, 1 - crop, crop))


def test_blur_has_the_papers_kernel_and_the_drawn_sigma(image: torch.Tensor) -> None:
    assert [ViewSpec(size).blur_kernel for size in (224, 96, 32)] == [23, 9, 3]
    view = view_with(image, LARGE, blur=ON, sigma=np.array([1.3]))
    assert torch.equal(view, v2.GaussianBlur(23, sigma=(1.3, 1.3))(resized_crop(image, LARGE)))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]])
def test_jitter_applies_the_factors_in_the_drawn_order(order: list[int], image: torch.Tensor) -> None:
    factors = [1.3, 0.7, 1.2, -0.05]
    view = view_with(image, SPEC, jitter=ON, order=np.array([order]), factors=np.array([factors]))
    expected = resized_crop(image)
    steps = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    for k in order:
        expected = steps[k](expected, factors[k])
    assert torch.equal(view, expected)


def test_an_operation_of_strength_zero_is_skipped(image: torch.Tensor) -> None:
    spec = ViewSpec(32, jitter_prob=1.0, brightness=0.4)
    view = view_with(image, spec, jitter=ON, factors=np.array([[1.2, 1.0, 1.0, 0.0]]))
    assert torch.equal(view, F.adjust_brightness(resized_crop(image), 1.2))


def test_evaluation_resizes_and_takes_the_centre(image: torch.Tensor) -> None:
    assert EvalSpec(224).resize == 256
    assert EvalSpec(32).resize == 32
    view = apply_eval(image, EvalSpec(96))
    resized = F.to_dtype(F.resize(image, [110], antialias=True), torch.float32, scale=True)
    assert torch.equal(view, F.center_crop(resized, [96, 96]))
    tiny = image[:, :8, :8]
    assert torch.equal(apply_eval(tiny, EvalSpec(8)), F.to_dtype(tiny, torch.float32, scale=True))


def test_normalisation_is_per_channel(image: torch.Tensor) -> None:
    view = normalize(image.float() / 255, ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
    assert torch.allclose(view[2], (image[2].float() / 255 - 0.3) / 0.7, atol=1e-6)


def test_flags_set_the_fields_of_the_view_specs() -> None:
    ((first, second),) = pretrain_views(
        PretrainViewsConfig(crop_size=96, min_scale=0.2, gaussian_prob=(0.3,), solarization_prob=(0.1,))
    )
    assert first == second
    assert (first.size, first.scale, first.blur_prob, first.solarize_prob) == (96, (0.2, 1.0), 0.3, 0.1)


def views_of(*flags: str) -> Views:
    return pretrain_views(parse(Pretrain, [flags[0], "resnet18", *flags[1:]]).config.views)


def test_multicrop_is_swavs_at_the_image_sizes_of_the_data_set() -> None:
    sizes = {"imagenet100": (224, 96), "cifar10": (32, 24), "stl10": (96, 58)}
    for dataset, (size, small) in sizes.items():
        full, crops = views_of(dataset, "--multicrop")
        assert [(spec.size, spec.scale) for spec in full] == [(size, (0.14, 1.0))] * 2
        assert [(spec.size, spec.scale) for spec in crops] == [(small, (0.05, 0.14))] * 6
    full, crops = views_of("cifar10", "--multicrop", "--n_crops", "3", "--n_small_crops", "1", "--min_scale", "0.3")
    assert (len(full), len(crops), full[0].scale) == (3, 1, (0.3, 1.0))


def test_asymmetric_views_are_byols_and_typed_flags_override_them() -> None:
    ((first, second),) = views_of("imagenet100", "--asymmetric_augmentations")
    assert [(spec.blur_prob, spec.solarize_prob) for spec in (first, second)] == [(1.0, 0.0), (0.1, 0.2)]
    assert (first.brightness, first.contrast, first.saturation, first.hue) == (0.4, 0.4, 0.2, 0.1)
    ((first, second),) = views_of("cifar10", "--asymmetric_augmentations")  # no blur at 32 pixels
    assert [(spec.blur_prob, spec.solarize_prob) for spec in (first, second)] == [(0.0, 0.0), (0.0, 0.2)]
    ((first, second),) = views_of("stl10", "--asymmetric_augmentations", "--gaussian_prob", "0.7", "--hue", "0.3")
    assert [(spec.blur_prob, spec.solarize_prob, spec.hue) for spec in (first, second)] == [
        (0.7, 0.0, 0.3),
        (0.7, 0.2, 0.3),
    ]


def test_small_crops_of_asymmetric_views_alternate_too() -> None:
    full, crops = views_of("imagenet100", "--asymmetric_augmentations", "--multicrop", "--n_small_crops", "3")
    assert [spec.solarize_prob for spec in (*full, *crops)] == [0.0, 0.2, 0.0, 0.2, 0.0]


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_augmentation_flag_works_on_every_data_set(dataset: str) -> None:
    flags = {
        "brightness": 0.11, "contrast": 0.12, "saturation": 0.13, "hue": 0.14, "jitter_prob": 0.15, "grey_prob": 0.16,
        "flip_prob": 0.19,
    }  # fmt: skip
    typed = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    typed += ["--gaussian_prob", "0.17", "--solarization_prob", "0.18", "--min_scale", "0.21", "--crop_size", "16"]
    ((view, _),) = views_of(dataset, *typed)
    assert {name: vars(view)[name] for name in flags} == flags
    assert (view.blur_prob, view.solarize_prob, view.scale, view.size) == (0.17, 0.18, (0.21, 1.0), 16)
