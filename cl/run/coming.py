"""Refuse, by name, the flags whose feature is still to come."""

from cl.config.flags import Config, fields_of, shown
from cl.config.programs import Linear, Pretrain
from cl.errors import UserError


def refuse_coming(config: Pretrain | Linear) -> None:
    """UserError for the first flag that asks for something not built yet."""
    for part in vars(config).values():
        assert isinstance(part, Config)
        for declared in fields_of(type(part)):
            value = part.__dict__[declared.name]
            if declared.flag.coming and value != declared.default:
                raise UserError(f"{declared.spelling}: got {shown(value)}, which is not available yet")
