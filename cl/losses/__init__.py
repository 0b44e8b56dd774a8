"""The losses: pure functions of tensors."""

from cl.losses.nt_xent import nt_xent_loss

__all__ = ["nt_xent_loss"]
