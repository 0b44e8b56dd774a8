"""Compile the view kernels for a GPU that need not be there: python -m tests.compile_kernels 90.

Exits with 1 if one of them spills registers, casts to bfloat16 other than by rounding, or fuses what its twin rounds.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cl.data.kernels import blur, colour, cut
from cl.data.views.spec import ViewSpec

PTXAS = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
NUMBERS = {"switches": "*i32", "factors": "*fp32", "norm": "*fp32"}
Case = tuple[Any, dict[str, str], dict[str, Any], dict[str, Any]]  # kernel, types of pointers, constants, options


def cases() -> Iterator[Case]:
    for side in (32, 224):
        for channels in (3, 1):
            size = {"area": side * side, "side": side, "channels": channels}
            images = {"images": "*u8", "offset": "*i64", "crops": "*i32", "out": "*u8"}
            tables = {"heads": "*i32", "first": "*i32", "weights": "*i16"}
            yield cut.cut_kernel, images | tables, size | {"block": cut.BLOCK}, {"num_warps": cut.WARPS}
            size |= {"step": channels, "plane": 1}  # channels last
            del size["side"]
            for dtype in ("*bf16", "*fp32"):
                pointers = NUMBERS | {"pixels": "*u8", "out": dtype, "unblurred": "*fp32"}
                yield colour.colour_kernel, pointers, size | {"block": colour.BLOCK}, options(colour.WARPS)
            size |= {"side": side, "radius": ViewSpec(side).blur_kernel // 2, "block": blur.BLOCK}
            for dtype in ("*bf16", "*fp32"):
                pointers = NUMBERS | {"source": "*fp32", "rows": "*i32", "out": dtype}
                yield blur.blur_kernel, pointers, size | {"is_last": dtype == "*bf16"}, options(blur.WARPS)


def options(warps: int) -> dict[str, Any]:
    return {"num_warps": warps, "enable_fp_fusion": False}


def compiled(kernel: Any, pointers: dict[str, str], constants: dict[str, Any], options: Any, architecture: int) -> str:
    """The kernel's PTX."""
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: pointers.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in pointers},
    )
    return str(triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options).asm["ptx"])


def spilled(ptx: str) -> int:
    """Bytes of registers that ptxas writes to memory."""
    target = re.search(r"\.target (\w+)", ptx)
    assert target
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [str(PTXAS), "-v", f"--gpu-name={target[1]}", file.name, "-o", "/dev/null"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.search(r"(\d+) bytes spill stores", report)
    assert found, report
    return int(found[1])


def main() -> int:
    failures = 0
    for kernel, pointers, constants, choices in cases():
        ptx = compiled(kernel, pointers, constants, choices, int(sys.argv[1]))
        spills = spilled(ptx)
        rounds = "*bf16" not in pointers.values() or "cvt.rn.bf16" in ptx
        fused = 0 if kernel is cut.cut_kernel else ptx.count("fma.rn.f32")
        print(f"{kernel.__name__} {constants}: {spills} bytes spilled, rounds: {rounds}, {fused} fused")
        failures += spills > 0 or not rounds or fused > 0
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
