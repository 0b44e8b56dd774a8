"""The commands that the installed package has: cl-pretrain, cl-linear, cl-embed, cl-report, cl-worth, cl-selfcheck."""

import sys

from cl.cli import run


def pretrain() -> None:
    from cl.pretrain import main

    run(main)


def linear() -> None:
    from cl.linear import main

    run(main)


def embed() -> None:
    from cl.embed import main

    run(main)


def report() -> None:
    from cl.report import main

    run(main)


def worth() -> None:
    from cl.worth.__main__ import main

    run(main)


def selfcheck() -> None:
    from cl.selfcheck import main

    run(lambda argv: sys.exit(main(argv)))
