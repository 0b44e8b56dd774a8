"""Packages that are imported only when a flag asks for them, and the extras of this distribution that install them."""

DISTRIBUTION = "contrastive-pretraining"


def how_to_install(extra: str) -> str:
    return f"pip install '{DISTRIBUTION}[{extra}]'"
