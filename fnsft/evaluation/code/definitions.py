"""What a program's text defines, found without running it."""

import ast
import warnings
from functools import lru_cache

MAX_CHARACTERS = 20_000  # of a program that is parsed: far more than 1,024 tokens


@lru_cache(4_096)  # extraction tries the same texts on several ways
def defines(program: str, name: str) -> bool:
    """Return whether a program compiles and binds a name at its top level."""
    tree = parsed(program)
    return tree is not None and any(name in _bound(statement) for statement in tree.body)


def compiles(program: str) -> bool:
    """Return whether a text is a Python program of at most ``MAX_CHARACTERS``."""
    return parsed(program) is not None


def parsed(program: str) -> ast.Module | None:
    """Return a program's syntax, None where the text is none or is too long."""
    if len(program) > MAX_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as invalid escapes in what a model writes
            tree = ast.parse(program)
            compile(tree, "<program>", "exec")  # finds a return outside of a function
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree


def _bound(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name) for alias in statement.names]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets = [statement.target]
    return [
        node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)
    ]
