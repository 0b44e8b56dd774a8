"""Which executor makes the views of a set of images."""

from cl.data.executors.base import Executor
from cl.data.executors.dali import DaliExecutor
from cl.data.executors.resident import ResidentExecutor
from cl.data.executors.torchvision import TorchvisionExecutor
from cl.data.executors.workers import WorkerExecutor
from cl.data.images import ImageSet
from cl.data.settings import LoaderSettings
from cl.data.views.rows import ViewPlanner
from cl.data.views.spec import Norm
from cl.machine.cores import cores_per_process


def executor_of(
    images: ImageSet, planner: ViewPlanner, norm: Norm, settings: LoaderSettings, *, kernels: bool, stays: bool
) -> Executor:
    """That of --loader. `kernels`: ours make the device's part of the views; `stays`: the images lie on the device."""
    executor = _made(images, planner, norm, settings, kernels, stays)
    executor.dtype = settings.dtype
    return executor


def _made(
    images: ImageSet, planner: ViewPlanner, norm: Norm, settings: LoaderSettings, kernels: bool, stays: bool
) -> Executor:
    data = settings.data
    device = settings.device
    if data.loader == "torchvision":
        return TorchvisionExecutor(images, planner, norm, device)
    threads = min(max(1, data.workers()), cores_per_process())
    by_dali = data.loader == "dali" and planner.interpolation == "bilinear"  # the only one matched to torch's
    if not kernels:
        if by_dali:
            return DaliExecutor(images, planner, norm, device, settings.dali_device, threads)
        kind = ResidentExecutor if stays else WorkerExecutor
        return kind(images, planner, norm, device)
    from cl.data.executors.fused import FusedDali, FusedResident, FusedWorkers  # imports Triton

    if by_dali:
        return FusedDali(images, planner, norm, device, settings.dali_device, threads)
    fused = FusedResident if stays else FusedWorkers
    return fused(images, planner, norm, device)
