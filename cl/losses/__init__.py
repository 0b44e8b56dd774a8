"""The losses, as pure functions of tensors."""

from cl.losses.barlow_twins import barlow_twins_loss
from cl.losses.byol import byol_loss
from cl.losses.info_nce import info_nce_loss, moco_v2_loss, moco_v3_loss
from cl.losses.lejepa import LeJEPATerms, lejepa_terms
from cl.losses.nt_xent import nt_xent_loss
from cl.losses.prototypes.dino import dino_loss, dino_targets, mean_entropy
from cl.losses.prototypes.sinkhorn import sinkhorn
from cl.losses.prototypes.swav import swav_loss
from cl.losses.simsiam import negative_cosine_similarity
from cl.losses.vicreg import VICRegTerms, vicreg_terms

__all__ = [
    "LeJEPATerms",
    "VICRegTerms",
    "barlow_twins_loss",
    "byol_loss",
    "dino_loss",
    "dino_targets",
    "info_nce_loss",
    "lejepa_terms",
    "mean_entropy",
    "moco_v2_loss",
    "moco_v3_loss",
    "negative_cosine_similarity",
    "nt_xent_loss",
    "sinkhorn",
    "swav_loss",
    "vicreg_terms",
]
