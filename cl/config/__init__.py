"""All flags of the programs, as frozen dataclasses. Nothing here imports torch."""
