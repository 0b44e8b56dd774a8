"""Contrastive image pretraining that can be trusted."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl.run.weights.load import load_backbone as load_backbone

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that flags and refusals do not wait for torch."""
    if name == "load_backbone":
        from cl.run.weights.load import load_backbone

        return load_backbone
    raise AttributeError(f"module cl has no attribute {name}")
