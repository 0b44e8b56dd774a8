"""Child processes: they end with their parent, and how they ended is put in words."""

import ctypes
import errno
import os
import re
import signal
import sys

SHARED_MEMORY = "give the container more shared memory (--shm-size, for /dev/shm), or use --num_workers 0"
MEMORY = "if memory ran out, reduce --num_workers or --batch_size"
ADVICE = {  # part of a reason, in the words of torch or the system -> what to change
    r"shared memory|/torch_|shm_open|Bus error": SHARED_MEMORY,
    r"Too many open files|ancdata": "raise the limit of open files (ulimit -n), or reduce --num_workers",
    r"MemoryError|Cannot allocate memory|[Oo]ut of memory|Killed": MEMORY,
    r"AF_UNIX|usable temporary directory": "TMPDIR must be a folder with a short path that can be written to",
    r"No space left|Function not implemented|semaphore": SHARED_MEMORY,  # semaphores lie in /dev/shm, too
}


def end_with_parent(parent: int) -> None:
    """On Linux, kill this process when its parent ends, even if by SIGKILL; at once if `parent` has already ended."""
    if sys.platform != "linux":
        return
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def lost_worker(error: str) -> str:
    """What to print if torch says in `error` that a loader worker has ended; "" for other errors."""
    end = r"is killed by signal: [^.]*|exited unexpectedly( with exit code \d+)?"
    worker = re.match(rf"DataLoader worker \(.*?\) ({end})", error)
    if worker is None:
        return ""
    code = re.search(r"exit code (\d+)", worker[0])
    reason = f" ({os.strerror(int(code[1]))})" if code and int(code[1]) in errno.errorcode and int(code[1]) > 1 else ""
    text = worker[0] + reason
    return f"{text}; {advice(text) or MEMORY}"


def advice(reason: str) -> str:
    """What to change, if the reason is a known one."""
    return next((text for pattern, text in ADVICE.items() if re.search(pattern, reason)), "")
