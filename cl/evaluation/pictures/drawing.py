"""What all pictures share: text from users is plain text, and a picture that fails costs a warning, never the run."""

import functools
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from cl.errors import Stopped, one_line

MAX_LABEL = 24  # characters of a name

P = ParamSpec("P")
R = TypeVar("R")


def label(text: str) -> str:
    """A name from the user as it is drawn, on one line, cut to a length. Drawn with `parse_math=False`: "$" is no TeX.

    Bytes that are not UTF-8 are drawn as replacement characters: matplotlib cannot encode their surrogates.
    """
    return one_line(re.sub("[\ud800-\udfff]", "\ufffd", text))[:MAX_LABEL]


def with_own_settings(save: Callable[P, R]) -> Callable[P, R]:
    """Draw with matplotlib's defaults, not with the user's matplotlibrc (`text.usetex` would run LaTeX).

    No warning is printed for a character that the font lacks: it is drawn as a box.
    """

    @functools.wraps(save)
    def save_with_defaults(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            matplotlib.rcdefaults()
            return save(*args, **kwargs)

    return save_with_defaults


def draw_for_each(paths: Sequence[Path], picture: Callable[[Path], None]) -> str:
    """Let `picture` draw the first of `paths` and copy it to the others; returns those that exist now, one a line."""
    first = paths[0]
    if not draw(first, partial(picture, first)):
        return ""
    drawn = [first, *(path for path in paths[1:] if draw(path, partial(shutil.copy, first, path)))]
    return "\n".join(one_line(str(path)) for path in drawn)


def draw(path: Path, picture: Callable[[], object]) -> bool:
    """Call `picture`, which draws `path`, and return whether it succeeded; a failure is printed as a warning."""
    try:
        picture()
    except Exception as error:  # of matplotlib, scikit-learn, a font, a full disk, an unreadable image
        reason = str(error) if isinstance(error, Stopped) else f"{type(error).__name__}: {error}"
        if reason:  # "" on the other processes, when all stop together
            print(f"warning: {path.name} was not drawn ({one_line(reason)[:200]})", file=sys.stderr, flush=True)
        return False
    return True
