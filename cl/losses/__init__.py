"""The losses, as pure functions of tensors."""

from cl.losses.barlow_twins import barlow_twins_loss
from cl.losses.nt_xent import nt_xent_loss
from cl.losses.simsiam import negative_cosine_similarity

__all__ = ["barlow_twins_loss", "negative_cosine_similarity", "nt_xent_loss"]
