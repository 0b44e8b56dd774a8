"""The page on images of one's own is run as written: a small folder, the weights of a narrow network."""

import shlex
from pathlib import Path

import pytest
from safetensors.torch import save_file

from cl import embed
from cl.backbones import build_backbone
from cl.config.backbone import BackboneConfig
from cl.data import check
from tests.conftest import ROOT, Run
from tests.pictures import write_classes
from tests.test_docs import commands
from tests.test_scripts import captured_command

NARROW = ["--width", "4", "--batch_size", "8", "--num_workers", "0", "--accelerator", "cpu"]


def check_all_good(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        check.main(argv)
    assert end.value.code == 0


def test_every_command_of_the_page_runs_in_order(run: Run, folder: Path) -> None:
    write_classes(folder / "my_photos/train", {"cat": 8, "dog": 8})
    write_classes(folder / "my_photos/val", {"cat": 2, "dog": 2})
    save_file(build_backbone(BackboneConfig("resnet18", width=4), 224).state_dict(), "weights.safetensors")
    modules = {"cl.data.check": check_all_good, "cl.embed": embed.main}
    lines = commands("your_images.md")
    assert len(lines) == 7
    for line in lines:
        program, *words = shlex.split(line)
        if program == "bash":
            script, *words = words
            _, *argv = captured_command(folder, str(ROOT / script), *words, *NARROW)
            code, out, err = run("main_contrastive.py", *argv, *([] if "--dry_run" in words else ["--fast_dev_run"]))
            assert (code, err) == (0, ""), line
            assert "continued preset" in out
        elif words[0] == "main_contrastive.py":
            assert run(words[0], *words[1:], *NARROW, "--fast_dev_run")[::2] == (0, ""), line
        elif words[0] == "main_linear.py":
            assert run(words[0], *words[1:], *NARROW[2:], "--fast_dev_run")[::2] == (0, ""), line
        elif words[:2] != ["-m", "cl.worth"]:  # which has tests of its own
            modules[words[1]](words[2:])
