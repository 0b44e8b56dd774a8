"""Contrastive image pretraining that can be trusted. The public names are imported when they are first used."""

__version__ = "0.1.0"
