class UserError(Exception):
    """Something the user can mend: one line that says what was given, what was expected and which flag to change."""
