"""Files of trained gates: what is read, what is refused, what is doubted."""

from __future__ import annotations

import hashlib

import pytest
import torch
from safetensors.torch import save_file

from circuitgraph.errors import ConfigurationError
from pruning.bench import trained
from pruning.bench.settings import BenchSettings
from pruning.bench.trained import file_of, read_trained, save_trained, why_none
from tests.pruning.methods.edge_pruning.test_budget import mean_gate

N = 400


def asked(path, tag="98") -> BenchSettings:
    return BenchSettings(model="tiny", **{f"trained_{tag}": str(path)})


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "gates.safetensors"
    log_alpha = torch.linspace(-12, 9, N)
    save_trained(path, log_alpha, {"recipe": "quick"})
    found = read_trained(asked(path, "995"), "995", N)
    assert found is not None and found.tag == "995" and found.file == path and not found.comes_along
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.log_alpha.dtype == torch.float32
    torch.testing.assert_close(found.log_alpha, log_alpha, rtol=1e-3, atol=1e-3)  # float16
    expected = 1 - sum(mean_gate(alpha) for alpha in log_alpha.tolist()) / N
    assert found.expected_sparsity == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("share", "doubted"), [(0.98, False), (0.978, False), (0.97, True), (0.995, True)])
def test_gates_that_are_not_as_sparse_as_the_name_says_are_doubted(tmp_path, share, doubted):
    path = tmp_path / "gates.safetensors"
    log_alpha = torch.full((1000,), 12.0)
    log_alpha[: round(1000 * share)] = -12.0
    save_trained(path, log_alpha, {})
    found = read_trained(asked(path), "98", 1000)
    assert found is not None
    assert (found.doubt is not None) == doubted
    if found.doubt is not None:
        assert str(path) in found.doubt and f"{share:.2%} in expectation, not 98.0%" in found.doubt


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"log_alpha": torch.zeros(N - 1)}, r"400 for tiny; .* holds shape \(399,\)"),
        ({"log_alpha": torch.zeros(N, 1)}, r"shape \(400, 1\)"),
        ({"alpha": torch.zeros(N)}, "holds alpha"),
        ({"log_alpha": torch.full((N,), torch.nan)}, "not finite"),
        (b"no safetensors at all", "cannot be read"),
        (None, "there is no file"),
    ],
)
def test_refusals(tmp_path, held, said):
    path = tmp_path / "gates.safetensors"
    if isinstance(held, bytes):
        path.write_bytes(held)
    elif held is not None:
        save_file(held, path)
    with pytest.raises(ConfigurationError, match=said):
        read_trained(asked(path), "98", N)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigurationError, match="there is no file"):
        read_trained(asked(tmp_path), "98", N)


def test_files_that_come_along(tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "DATA_FOLDER", tmp_path)
    settings = BenchSettings(model="smollm2-135m")
    assert file_of(settings, "98") is None and read_trained(settings, "98", N) is None
    assert "smollm2-135m to 99.5% come along; give --trained-995 FILE" in why_none(settings, "995")
    path = tmp_path / "smollm2-135m-ioi-98.safetensors"
    save_trained(path, torch.zeros(N), {})
    assert file_of(settings, "98") == (path, True)
    found = read_trained(settings, "98", N)
    assert found is not None and found.comes_along
    given = BenchSettings(model="smollm2-135m", trained_98="mine")
    assert file_of(given, "98") is not None and str(file_of(given, "98")[0]) == "mine", "a given file goes first"
    assert file_of(BenchSettings(model="a-folder"), "98") is None


def test_the_files_in_the_package_fit_their_models():
    """Whatever files are there, they are whole, and nearly as sparse as their names say."""
    from circuitgraph.graph.universe import Universe

    universes = {
        "smollm2-135m": Universe(family="llama", n_layers=30, n_heads=9, n_kv_heads=3),
        "gpt2-random": Universe(family="gpt2", n_layers=12, n_heads=12, n_kv_heads=12),
    }
    for model, universe in universes.items():
        for tag in ("98", "995"):
            found = read_trained(BenchSettings(model=model), tag, universe.n_edges)
            assert found is None or found.doubt is None
    named = {f"{name}-{tag}.safetensors" for name in trained.SHIPPED.values() for tag in ("98", "995")}
    assert {path.name for path in trained.DATA_FOLDER.glob("*.safetensors")} <= named
