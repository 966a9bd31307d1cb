"""What departs from the habits of the house in one Python source, found without running it."""

import ast

LONGEST_FILE = 400
LONGEST_BODY = 60
SKIPS = ("pytest.skip", "pytest.xfail", "pytest.mark.skip", "pytest.mark.xfail")
PRIVATE_MODULES = ("jax._src", "keras.src")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def dotted(node):
    """Return `a.b.c` for the expression a.b.c, and an empty string for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def asserts(tree):
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]


def prints(tree):
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if dotted(call.func) == "print"]


def long_bodies(tree):
    """Return the lines of functions whose body, without the docstring, is too long."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body and node.end_lineno - body[0].lineno + 1 > LONGEST_BODY:
                found.append(node.lineno)
    return found


def undocumented(tree):
    """Return the lines of the module and of its public functions and classes with no docstring."""
    public = (
        node
        for node in tree.body
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_")
    )
    found = [node.lineno for node in public if not ast.get_docstring(node)]
    return found if ast.get_docstring(tree) or not tree.body else [1, *found]


def private_imports(tree):
    """Return the lines that name a private module of JAX or Keras, imported or by attribute."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [dotted(node)]
        if any(f"{name}.".startswith(f"{own}.") for name in names for own in PRIVATE_MODULES):
            found.append(node.lineno)
    return sorted(set(found))


def skips(tree):
    """Return the lines of skips and expected failures; `skipif` has a condition and is fine."""
    return [node.lineno for node in ast.walk(tree) if dotted(node) in SKIPS]


def blind_raises(tree):
    """Return the lines of `pytest.raises` that do not look at the message."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [
        call.lineno
        for call in calls
        if dotted(call.func) in {"pytest.raises", "raises"}
        and "match" not in {keyword.arg for keyword in call.keywords}
    ]
