"""Checksums beside shards, as `sha256sum` writes and verifies them."""

import hashlib
from pathlib import Path


def checksum_path(shard: Path) -> Path:
    return shard.with_name(f"{shard.name}.sha256")


def damage(shard: Path) -> str:
    """Why a shard is not what its checksum says; "" if it is, or has none."""
    path = checksum_path(shard)
    if not path.exists():
        return ""
    with shard.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    expected = path.read_text(errors="replace").split()
    return "" if expected[:1] == [found] else f"its SHA-256 is {found[:12]}..., not that in {path.name}"
