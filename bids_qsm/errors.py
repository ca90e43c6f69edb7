class UserError(Exception):
    """Something the user can mend: one clear sentence that names the file, what is wrong and what to do."""
