"""Which tests a change concerns, for `make test-changed`: `python -m tests.changed [COMMIT]` lists them.

A change is what differs from a commit (by default HEAD, or the commit before it where the tree is clean), files that
git does not know yet included. It concerns

1. the changed tests, and the doctests of the changed modules;
2. tests that import a changed module, themselves or through a helper in `tests`, by name or lazily through a package;
3. tests of the rooms that it touches: `tests/circuitgraph/cli` for `circuitgraph/cli/draw.py`;
4. `tests/docs`, where a page of `docs` changed;
5. everything, where what all tests rest on changed (`pyproject.toml`, `constraints.txt`, `tests/conftest.py`).

What a change breaks further away is for `make test`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("circuitgraph", "pruning", "analysis")
_FOUNDATIONS = ("pyproject.toml", "constraints.txt", "tests/conftest.py")


def concerned(changed: Iterable[str], root: Path = ROOT) -> list[str]:
    """Files and folders to hand to pytest.

    Args:
        changed: Changed files, relative to the root, with slashes.
        root: The root of the checkout.

    Returns:
        Paths relative to the root, sorted; empty if no test is concerned.
    """
    changed = list(changed)
    if any(path in _FOUNDATIONS for path in changed):
        return ["tests", *PACKAGES]
    found: set[str] = set()
    modules = {_module(path) for path in changed if path.endswith(".py")}
    for path in changed:
        inside = path.startswith(tuple(f"{package}/" for package in PACKAGES))
        if inside and path.endswith(".py") and (root / path).exists():
            found.add(path)  # its doctests
        if inside:
            found.update(_room(path, root))
        if path.startswith("docs/"):
            found.add("tests/docs")
    for test in sorted((root / "tests").rglob("test_*.py")):
        name = test.relative_to(root).as_posix()
        if name in changed or not modules.isdisjoint(_imports(test, root)):
            found.add(name)
    return sorted(found)


def _room(path: str, root: Path) -> Iterator[str]:
    """The folder of tests that mirrors a file's room; a package's own folder is no room but the whole house."""
    room = Path("tests", *Path(path).parent.parts)
    while len(room.parts) > 2:
        if (root / room).is_dir():
            yield room.as_posix()
            return
        room = room.parent


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imports(path: Path, root: Path) -> frozenset[str]:
    """Modules that a file imports, itself or through helpers in `tests`, which may import each other."""
    found: set[str] = set()
    waiting, seen = [path], {path}
    while waiting:
        own = _own_imports(waiting.pop(), root)
        found.update(own)
        helpers = {root / (name.replace(".", "/") + ".py") for name in own if name.startswith("tests.")} - seen
        seen |= helpers
        waiting += [helper for helper in helpers if helper.exists()]
    return frozenset(found)


@cache
def _own_imports(path: Path, root: Path) -> frozenset[str]:
    """Modules that a file itself imports: `from a import b` may mean the module `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
            if node.module in PACKAGES:
                found.update(_homes(node.module, [alias.name for alias in node.names], root))
    return frozenset(found)


@cache
def _public(package: str, root: Path) -> dict[str, str]:
    """Where a package's public names live, from the imports that its `__init__` has for type checkers."""
    homes = {}
    for node in ast.walk(ast.parse((root / package / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            homes.update({alias.asname or alias.name: node.module for alias in node.names})
    return homes


def _homes(package: str, names: list[str], root: Path) -> list[str]:
    return [_public(package, root)[name] for name in names if name in _public(package, root)]


def changed_since(commit: str | None) -> list[str]:
    """Files that differ from a commit, or are new."""

    def git(*arguments: str) -> list[str]:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return [line for line in done.stdout.splitlines() if line]

    new = git("ls-files", "--others", "--exclude-standard")
    files = git("diff", "--name-only", commit or "HEAD") + new
    return files if files or commit else git("diff", "--name-only", "HEAD~1")


if __name__ == "__main__":
    print("\n".join(concerned(changed_since(sys.argv[1] if len(sys.argv) > 1 else None))))
