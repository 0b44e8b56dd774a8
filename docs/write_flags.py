"""Write flags.md from the declarations: python docs/write_flags.py"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from cl.config.flags import Config, Field, as_typed, fields_of  # noqa: E402
from cl.config.methods import METHODS  # noqa: E402
from cl.config.programs import MOST_USED, Linear, Pretrain, config_parts  # noqa: E402
from cl.errors import markdown_cell  # noqa: E402

INTRODUCTION = """# Flags

Every flag of the two programs, from their declarations (`python docs/write_flags.py` writes this page). A default is
what a flag has if neither the data set, nor the method, nor another flag has a preset for it: `--help` after a data set
and a backbone shows the values of that run. A switch has an opposite, with `no_` before its name.
"""


def flags_page() -> str:
    """The page as Markdown."""
    lines = [INTRODUCTION]
    for title, program in (("Pretraining", Pretrain), ("Linear evaluation", Linear)):
        parts = config_parts(program, "simclr" if program is Pretrain else None)
        fields = {field.name: field for part in parts.values() for field in fields_of(part)}
        lines += [f"## {title}", "", "### Most used", "", *table(fields[name] for name in MOST_USED[program])]
        for name, part in parts.items():
            if name != "method":
                others = [field for field in fields_of(part) if field.name not in MOST_USED[program]]
                lines += [f"### {heading(part)}", "", *table(others)]
    lines += ["## Methods", ""]
    for name, config in METHODS.items():
        own = [field for field in fields_of(config) if field.name != "method"]
        lines += [f"### `--method {name}`", "", *table(own)]
    return "\n".join(lines).rstrip() + "\n"


def heading(part: type[Config]) -> str:
    return (part.__doc__ or "").split(". ")[0].strip().rstrip(".").replace("\n", " ")


def table(fields: Iterable[Field]) -> Iterator[str]:
    yield "| flag | value | default | |"
    yield "|---|---|---|---|"
    for field in fields:
        spellings = ", ".join(f"`{spelling}`" for spelling in (field.spelling, *field.flag.aliases))
        spellings += "".join(f", `{short}` for `{value}`" for short, value in field.flag.shorthands.items())
        expected = "a switch" if field.kind is bool else markdown_cell(field.expected)
        yield f"| {spellings} | {expected} | {as_typed(field.default)} | {markdown_cell(field.flag.help)} |"
    yield ""


if __name__ == "__main__":
    (ROOT / "docs/flags.md").write_text(flags_page())
