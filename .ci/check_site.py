"""The pages of a built site fetch nothing from elsewhere: python .ci/check_site.py FOLDER"""

import re
import sys
from pathlib import Path

FETCHED = re.compile(
    r"<(?:script|img|iframe|source|audio|video|embed)\b[^>]*\bsrc=[\"']((?:https?:)?//[^\"']+)"
    r"|<link\b(?![^>]*rel=[\"'](?:canonical|author|license))[^>]*\bhref=[\"']((?:https?:)?//[^\"']+)"
    r"|(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)"
)

folder = Path(sys.argv[1])
pages = [path for path in folder.rglob("*") if path.suffix in (".html", ".css")]
found = [f"{path.relative_to(folder)}: {match[0]}" for path in pages for match in FETCHED.finditer(path.read_text())]
print(f"{len(pages)} pages and style sheets")
if found or not (folder / "index.html").exists():
    sys.exit("\n".join(["fetched from elsewhere:", *found]))
