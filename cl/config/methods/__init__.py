"""The registry of methods: the name on the command line -> the method's flags and presets."""

from cl.config.methods.barlow_twins import BarlowTwinsConfig
from cl.config.methods.base import METHODS, MethodConfig
from cl.config.methods.byol import BYOLConfig
from cl.config.methods.dino import DINOConfig
from cl.config.methods.distill import DistillConfig
from cl.config.methods.lejepa import LeJEPAConfig
from cl.config.methods.moco_v2 import MoCoV2Config
from cl.config.methods.moco_v3 import MoCoV3Config
from cl.config.methods.nnclr import NNCLRConfig
from cl.config.methods.simclr import SimCLRConfig
from cl.config.methods.simsiam import SimSiamConfig
from cl.config.methods.supcon import SupConConfig
from cl.config.methods.swav import SwAVConfig
from cl.config.methods.vicreg import VICRegConfig

__all__ = ["DEFAULT", "METHODS", "MethodConfig"]

DEFAULT = "simclr"
METHODS |= {
    "simclr": SimCLRConfig,
    "barlow_twins": BarlowTwinsConfig,
    "simsiam": SimSiamConfig,
    "supcon": SupConConfig,
    "vicreg": VICRegConfig,
    "byol": BYOLConfig,
    "lejepa": LeJEPAConfig,
    "moco_v3": MoCoV3Config,
    "nnclr": NNCLRConfig,
    "moco_v2": MoCoV2Config,
    "swav": SwAVConfig,
    "dino": DINOConfig,
    "distill": DistillConfig,
}
