"""--tensorboard is optional, has what metrics.csv has and the pictures, and its failures never end a run."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import TINY, Run

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
PRETRAIN = "main_contrastive.py"
QUICK = ["digits", "resnet18", *TINY, "--run_id", "r", "--tensorboard"]
FOLDER = Path("trained_models/r")


def logged() -> Any:
    """What TensorBoard shows of the run."""
    events = event_accumulator.EventAccumulator(str(FOLDER / "tensorboard"))
    return events.Reload()


def metrics_csv() -> list[dict[str, str]]:
    with (FOLDER / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_has_the_rows_of_metrics_csv(events: Any) -> None:
    rows = metrics_csv()
    for name in set(rows[0]) - {"step"}:
        expected = [(int(row["step"]), pytest.approx(float(row[name]), rel=1e-4)) for row in rows if row[name]]
        assert [(event.step, event.value) for event in events.Scalars(name)] == expected, name


@pytest.fixture
def run_with_a_picture(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run`, in which curves.png is a picture."""

    def curves(rows: object, path: Path) -> None:
        Image.new("RGB", (40, 30), "red").save(path)

    monkeypatch.setattr("cl.evaluation.pictures.curves_picture.save_curves", curves)
    return run


def test_every_row_of_metrics_csv_and_every_picture_is_logged(run_with_a_picture: Run) -> None:
    run = run_with_a_picture
    code, _, err = run(PRETRAIN, *QUICK, "--epochs", "2")
    assert (code, err) == (0, "")
    events = logged()
    assert_has_the_rows_of_metrics_csv(events)
    assert events.Tags()["images"] == ["curves"]
    (picture,) = events.Images("curves")
    assert (picture.width, picture.height, picture.step) == (40, 30, 44)


def test_a_resumed_run_continues_where_its_checkpoint_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from cl.run.folder.checkpoint import SaveLast

    save = SaveLast.save

    def killed(self: SaveLast, trainer: Any) -> None:
        if trainer.current_epoch == 1:
            raise SystemExit(9)  # after the row of the epoch, before its checkpoint
        save(self, trainer)

    with monkeypatch.context() as patch:
        patch.setattr(SaveLast, "save", killed)
        assert run(PRETRAIN, *QUICK, "--epochs", "3")[0] == 9
    before = len(metrics_csv())
    code, _, err = run(PRETRAIN, "digits", "resnet18", "--tensorboard", "--resume_training_from", str(FOLDER))
    assert (code, before) == (0, 2), err
    events = logged()
    assert [event.step for event in events.Scalars("loss")] == [22, 44, 66]
    assert_has_the_rows_of_metrics_csv(events)


@pytest.mark.parametrize("failing", ["__init__", "add_scalar", "flush", "add_image", "close"])
def test_a_failure_costs_one_warning(failing: str, run_with_a_picture: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def fail(self: SummaryWriter, *args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, failing, fail)
    code, out, err = run_with_a_picture(PRETRAIN, *QUICK, "--max_steps", "2")
    assert code == 0
    assert "online linear" in out
    assert err.count("\n") == 1
    assert "warning: TensorBoard is disabled for the rest of the run (OSError: [Errno 28] No space left" in err


def test_a_run_trains_without_tensorboard_installed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, _, err = run(PRETRAIN, *QUICK, "--max_steps", "2")
    assert code == 0
    assert err.count("\n") == 1
    assert "warning: TensorBoard is disabled for the rest of the run (ModuleNotFoundError" in err
