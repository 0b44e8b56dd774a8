"""The report of --dry_run, and --batch_size auto with it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cl.backbones import build_backbone
from cl.batch import Batch
from cl.config.backbone import BackboneConfig
from cl.errors import UserError
from cl.machine import cgroups
from cl.methods import ContrastiveModule
from cl.run.start import batch_search, memory
from cl.run.start.banner import row_lines
from cl.run.start.batch_search import Trial, estimated_peak, largest_batch
from cl.run.start.dry_run import count_flops, count_parameters, format_duration
from cl.run.start.memory import Peak, available_memory
from tests.conftest import ROOT, TINY, Run
from tests.test_methods import build

QUICK = ["digits", "resnet18", *TINY]
CPU = torch.device("cpu")


def test_a_long_label_is_separated_from_its_text() -> None:
    assert row_lines("digits preset", "lr 0.1") == ["  digits preset       lr 0.1"]
    assert row_lines("digits barlow_twins preset", "lr 0.1") == ["  digits barlow_twins preset  lr 0.1"]


@pytest.mark.parametrize(("side", "multiply_adds"), [(224, 1.8136e9), (32, 0.5557e9)])
def test_flops_of_a_resnet18_match_the_published_counts(side: int, multiply_adds: float) -> None:
    """1.814 G multiply-adds with the classifier at 224 pixels (torchvision); 0.556 G with the stem of CIFAR."""
    backbone = build_backbone(BackboneConfig("resnet18"), side)
    assert count_flops(backbone, torch.zeros(1, 3, side, side)) == pytest.approx(2 * multiply_adds, rel=1e-3)
    assert backbone.training


def test_parameter_counts_of_the_parts_add_up_to_all_parameters() -> None:
    module = build("simsiam")
    counts = count_parameters(module)
    assert list(counts) == ["backbone", "online_head", "projector", "predictor"]
    assert sum(counts.values()) == sum(p.numel() for p in module.parameters())


def test_the_figures_of_a_dry_run_are_consistent(run: Run, folder: Path) -> None:
    code, out, err = run("main_contrastive.py", *QUICK, "--max_steps", "30", "--dry_run")
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert "parameters 44,292 backbone, 330 online head, 2,704 projector" in text
    match = re.search(
        r"time ([\d.]+) s a step \(median of 3\), (\d+)% of it waiting for data; ([\d.]+) s an epoch", text
    )
    assert match, text
    step, waiting, epoch = map(float, match.groups())
    assert epoch == pytest.approx(22 * step, rel=0.2, abs=23 * 0.005)  # both are rounded to hundredths
    assert 0 <= waiting <= 100
    assert "for all 30 steps" in text
    assert re.search(r"one step: loss [\d.]+ including the online head, gradient norm", text)
    assert re.search(r"memory [\d.]+ \w+ at the peak of a step", text)  # little where freed memory is used again
    assert not list(folder.glob("trained_models/*/last.ckpt"))


def test_a_dry_run_measures_linear_evaluation(run: Run, folder: Path) -> None:
    assert run("main_contrastive.py", *QUICK, "--fast_dev_run", "--run_id", "first")[0] == 0
    flags = ["digits", "resnet18", "--pretrained_feature_extractor", "trained_models/first", "--dry_run"]
    code, out, err = run("main_linear.py", *flags)
    assert (code, err) == (0, "")
    assert "44,292 backbone, 330 head" in out
    assert re.search(r"one step: loss [\d.]+, gradient norm", out)


def test_batch_size_auto_tries_powers_of_two_up_to_the_number_of_images(run: Run, folder: Path) -> None:
    code, out, err = run("main_contrastive.py", *QUICK, "--batch_size", "auto", "--devices", "2", "--dry_run")
    assert (code, err) == (0, "")
    assert [int(n) for n in re.findall(r"(\d+) images .* s a step", out)] == [2**k for k in range(1, 10)]
    assert "largest batch that fits: 512 (only 718 training images are available)" in out


def test_the_last_batch_size_typed_wins(run: Run, folder: Path) -> None:
    code, out, _ = run("main_contrastive.py", *QUICK, "--batch_size", "auto", "--batch_size", "128", "--dry_run")
    assert code == 0
    assert "128 x 1 process" in out
    assert "largest batch" not in out


def test_a_full_gpu_ends_the_search() -> None:
    def step(images: int) -> None:
        if images > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert largest_batch(step, 10_000, CPU).endswith("fits: 64 (GPU memory is full at 128)")
    tiny = largest_batch(lambda images: step(1000), 10_000, CPU)
    assert tiny == "not even 2 images fit (GPU memory is full at 2)"


def test_a_batch_that_does_not_fit_is_refused(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ContrastiveModule, batch: Batch, _: int) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ContrastiveModule, "training_step", full)
    code, _, err = run("main_contrastive.py", *QUICK, "--dry_run")
    assert (code, err.count("\n")) == (2, 1)
    assert "--batch_size: got 64, which does not fit" in err


def test_batch_size_auto_is_refused_where_free_memory_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_search, "available_memory", lambda: None)
    with pytest.raises(UserError, match="--batch_size: got auto, expected an integer: this system"):
        largest_batch(lambda images: None, 10_000, CPU)


class FakePeak:
    """Reports 100 bytes plus 10 per image, for 2, 4, 8, ... images."""

    def __init__(self, device: torch.device) -> None:
        self.images = 0

    def bytes(self) -> int:
        self.images = self.images * 2 or 2
        return 100 + 10 * self.images


def test_a_cpu_stops_before_its_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_search, "Peak", FakePeak)
    monkeypatch.setattr(batch_search, "available_memory", lambda: 1000)
    tried: list[int] = []
    result = largest_batch(tried.append, 10_000, CPU)
    assert tried == [2, 4, 8, 16, 32, 64]  # 128 images would need 1380 bytes, 64 need 740; the limit is 800
    assert "fits: 64 (128 would need" in result


def test_slow_steps_are_extrapolated_and_the_result_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_search, "Peak", FakePeak)
    monkeypatch.setattr(batch_search, "available_memory", lambda: 1000)
    monkeypatch.setattr(batch_search, "SLOWEST", -1)
    tried: list[int] = []
    result = largest_batch(tried.append, 10_000, CPU)
    assert tried == [2, 4]
    assert "fits: 64" in result
    assert "extrapolated, because a step of 4 images takes" in result


def test_the_estimated_peak_is_exact_for_a_constant_plus_a_cost_per_image() -> None:
    assert estimated_peak([Trial(2, 1, 120)], 4) == 0
    assert estimated_peak([Trial(2, 1, 120), Trial(4, 1, 140), Trial(8, 1, 180)], 64) == 740


@pytest.mark.skipif(not memory.STATUS.exists(), reason="needs /proc of Linux")
def test_the_peak_is_the_growth_of_the_process_since_it_was_created() -> None:
    """In a process of its own: after other tests the allocator may keep freed memory, and use it again."""
    program = """
import torch
from cl.run.start.memory import Peak
before = torch.ones(2**26)  # 256 MiB, freed before the measurement
del before
peak = Peak(torch.device("cpu"))
during = torch.ones(2**25)
del during
print(peak.bytes())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(2**27, rel=0.1)


@pytest.mark.parametrize("file", ["STATUS", "CLEAR_REFS"])
def test_a_peak_that_the_system_does_not_tell_is_not_measured(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sandboxes such as gVisor lack VmHWM, or do not let it be reset."""
    (tmp_path / "status").write_text("Name: python\nVmRSS:   123 kB\n")
    monkeypatch.setattr(memory, file, tmp_path / "status" if file == "STATUS" else tmp_path / "missing/clear_refs")
    peak = Peak(torch.device("cpu"))
    assert (peak.bytes(), str(peak)) == (None, "not measured on this system")


def test_memory_that_the_system_does_not_tell_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\n")
    monkeypatch.setattr(memory, "SYSTEM", tmp_path / "meminfo")
    assert available_memory() is None


def test_a_largest_batch_is_not_searched_where_memory_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_search, "available_memory", lambda: 1000)
    monkeypatch.setattr(memory, "STATUS", Path("missing"))
    with pytest.raises(UserError, match=r"--batch_size: got auto, expected an integer: .* a process's memory"):
        largest_batch(lambda images: None, 10_000, CPU)


def test_available_memory_respects_the_limit_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    2000 kB\n")
    (tmp_path / "mountinfo").write_text(f"30 23 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw\n")
    monkeypatch.setattr(memory, "SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr(cgroups, "PROC", tmp_path)
    assert available_memory() == 2000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() == 2000 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert available_memory() == 600_000
    (tmp_path / "memory.stat").write_text("anon 300000\ninactive_file 100000\n")
    assert available_memory() == 700_000


def test_durations_are_readable() -> None:
    assert [format_duration(s) for s in (0.123, 75, 600, 9000, 200_000)] == [
        "0.12 s",
        "75 s",
        "10.0 min",
        "2.5 h",
        "2.3 days",
    ]
