"""The wheel holds every file of the package and nothing else: python .ci/check_wheel.py FILE.whl"""

import subprocess
import sys
import zipfile

tracked = subprocess.run(["git", "ls-files", "cl"], capture_output=True, text=True, check=True).stdout.split()
with zipfile.ZipFile(sys.argv[1]) as wheel:
    packed = [name for name in wheel.namelist() if ".dist-info/" not in name]
missing = sorted(set(tracked) - set(packed))
extra = sorted(set(packed) - set(tracked))
print("\n".join(packed))
if missing or extra:
    sys.exit(f"missing from the wheel: {missing}; not of the package: {extra}")
