"""`make test-changed` runs the tests that a change concerns, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.changed import ROOT, concerned


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Two modules, a room of a package, tests of both, one through a helper, one through the package's public name."""
    files = {
        "circuitgraph/__init__.py": "from circuitgraph.circuits.circuit import Circuit\n",
        "circuitgraph/circuits/circuit.py": "",
        "circuitgraph/graph/build.py": "",
        "circuitgraph/cli/draw.py": "",
        "circuitgraph/cli/deep/down.py": "",
        "pruning/__init__.py": "",
        "analysis/__init__.py": "",
        "tests/helper.py": "import circuitgraph.graph.build\nimport tests.other\n",
        "tests/other.py": "import tests.helper\n",
        "tests/circuitgraph/circuits/test_circuit.py": "from circuitgraph.circuits.circuit import Circuit\n",
        "tests/circuitgraph/graph/test_build.py": "from tests.helper import graph\n",
        "tests/circuitgraph/test_public.py": "from circuitgraph import Circuit\n",
        "tests/circuitgraph/test_module.py": "def test():\n    from circuitgraph.circuits import circuit\n",
        "tests/circuitgraph/cli/test_draw.py": "",
        "tests/docs/test_pages.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (["README.md"], []),
        (
            ["circuitgraph/circuits/circuit.py"],
            [
                "circuitgraph/circuits/circuit.py",
                "tests/circuitgraph/circuits",
                "tests/circuitgraph/circuits/test_circuit.py",
                "tests/circuitgraph/test_module.py",
                "tests/circuitgraph/test_public.py",
            ],
        ),
        (
            ["circuitgraph/graph/build.py"],
            ["circuitgraph/graph/build.py", "tests/circuitgraph/graph", "tests/circuitgraph/graph/test_build.py"],
        ),
        (["circuitgraph/gone.py"], []),
        (["tests/helper.py"], ["tests/circuitgraph/graph/test_build.py"]),
        (["circuitgraph/cli/draw.py"], ["circuitgraph/cli/draw.py", "tests/circuitgraph/cli"]),
        (["circuitgraph/cli/deep/down.py"], ["circuitgraph/cli/deep/down.py", "tests/circuitgraph/cli"]),
        (["circuitgraph/cli/page.js"], ["tests/circuitgraph/cli"]),
        (["tests/docs/test_pages.py"], ["tests/docs/test_pages.py"]),
        (["docs/index.md"], ["tests/docs"]),
        (["tests/conftest.py"], ["tests", "circuitgraph", "pruning", "analysis"]),
    ],
)
def test_what_a_change_concerns(house: Path, changed: list[str], found: list[str]) -> None:
    assert concerned(changed, house) == found


def test_this_house_is_understood() -> None:
    found = concerned(["circuitgraph/circuits/file.py", "analysis/explorer/page/view.js"])
    assert "tests/analysis/explorer" in found
    assert "circuitgraph/circuits/file.py" in found
    assert all((ROOT / path).exists() for path in found)
    assert "tests/circuitgraph/circuits/test_circuit.py" in concerned(["circuitgraph/circuits/circuit.py"])
