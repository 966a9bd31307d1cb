"""What the commands have in common."""


def flag(option: str) -> str:
    """Return the flag of an option that is named in Python's way."""
    return f"--{option.replace('_', '-')}"
