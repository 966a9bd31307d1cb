"""How a library's backbone families are listed."""

import importlib

IMAGE = (32, 32, 3)


def registry(library):
    """Return an empty dictionary of a library's families, and the decorator that fills it."""
    families = {}

    def family(build):
        families[f"{library} {build.__name__}"] = build
        return build

    return families, family


def load(library, packages):
    """Import a library, or say which packages bring it."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise ImportError(
            f"The zoo of backbones needs {library}: pip install {packages}"
        ) from error


def without(settings, name):
    """Return all settings but one."""
    return {key: value for key, value in settings.items() if key != name}
