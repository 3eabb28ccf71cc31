"""A warm cache: the bits of a cold one, and nothing run but the masked pass."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from circuitgraph.compiled import model as compiled_module
from circuitgraph.compiled.compile import compile_model
from circuitgraph.compiled.model import CompiledModel
from circuitgraph.errors import CacheWarning, ConfigurationError
from circuitgraph.forward import reference
from pruning.frozen import folder as files
from pruning.frozen import keys
from pruning.frozen.disk import DiskCache
from pruning.frozen.runs import FrozenBatch, FrozenRuns, RunCounts
from pruning.frozen.top_teacher import TopTeacher
from pruning.methods.edge_pruning.recipes import recipe_named
from pruning.methods.edge_pruning.train import Trainer
from pruning.prompts.batch_order import BatchOrder
from pruning.prompts.encoding import EncodedPairs
from tests.pruning.frozen.test_frozen_runs import assert_same, tensors
from tests.pruning.prompts.small_prompts import random_prompts

pytestmark = pytest.mark.slow

LENGTHS = [5, 3, 5, 4, 3, 5, 5, 3, 5, 5]
N = len(LENGTHS)
PROMPTS = random_prompts(lengths=LENGTHS, n_asked=(1, 3, 2))
ABLATIONS = ("counterfactual", "zero", "mean")
LARGE = 1 << 30
SMALL = 6_000
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # torch leaves it out of its counts


@pytest.fixture(autouse=True)
def steady_code(monkeypatch) -> None:
    """The library's files do not change while a test runs, whoever edits them."""
    monkeypatch.setattr(keys, "code_digest", lambda: keys._CODE_AT_IMPORT)


@pytest.fixture(scope="module", params=["gpt2", "llama", "llama in bfloat16"])
def compiled(request, tiny_gpt2, tiny_llama) -> CompiledModel:
    dtype = torch.bfloat16 if "bfloat16" in request.param else torch.float32
    make = tiny_gpt2 if request.param == "gpt2" else tiny_llama
    return compile_model(make(dtype=dtype), verify=False)


@pytest.fixture(scope="module")
def gpt2(tiny_gpt2) -> CompiledModel:
    return compile_model(tiny_gpt2(), verify=False)


@pytest.fixture
def disk(tmp_path) -> DiskCache:
    return DiskCache(tmp_path / "frozen", spare_bytes=0)


@pytest.fixture
def calls(monkeypatch) -> Counter[str]:
    """How often the model was run, plainly and masked, and its heads' projections alone."""
    found: Counter[str] = Counter()

    def counted(module: object, name: str) -> None:
        real = getattr(module, name)

        def run(*arguments, **options):
            found[name] += 1
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, run)

    counted(reference, "reference_run")
    counted(compiled_module, "reference_run")
    counted(compiled_module, "run_pass")
    counted(compiled_module, "read_again")
    return found


def runs_of(compiled: CompiledModel, **options) -> FrozenRuns:
    return FrozenRuns(compiled, PROMPTS, **{"ablation": "counterfactual", "batch_size": 3, **options})


def drawn(runs: FrozenRuns, n: int = 12) -> list[FrozenBatch]:
    """Batches in other company than they were run in."""
    order = BatchOrder(runs.by_length, 2, np.random.default_rng(0))
    return [runs.batch(order.next()) for _ in range(n)]


def assert_all_same(some: list[FrozenBatch], others: list[FrozenBatch]) -> None:
    for a, b in zip(some, others, strict=True):
        assert_same(a, b)
        assert all(x.is_contiguous() for x in (a.teacher, *tensors(a.values)))


def assert_all_said_the_same(some: list[FrozenBatch], whole: list[FrozenBatch]) -> None:
    """Bit for bit what was kept; what was filled in, to the rounding of float32 (of 8 bits in bfloat16)."""
    for a, b in zip(some, whole, strict=True):
        assert torch.equal(a.teacher, b.teacher)
        for name in ("embeddings", "heads", "mlps"):
            assert all(map(torch.equal, getattr(a.values, name), getattr(b.values, name)))
        for x, y in zip(tensors(a.values), tensors(b.values), strict=True):
            torch.testing.assert_close(x, y, atol=1e-6 if x.dtype == torch.float32 else 0.02, rtol=0.01)


def assert_right(batch: FrozenBatch, compiled: CompiledModel, atol: float = 1e-4) -> None:
    """Teacher and values are the model's on those very prompts, to float32's rounding."""
    torch.testing.assert_close(batch.teacher, compiled.logits(batch.pairs.clean), atol=atol, rtol=0)
    expected = compiled.run_with_values(batch.pairs.corrupted)[1]
    for x, y in zip(tensors(batch.values), tensors(expected), strict=True):
        torch.testing.assert_close(x, y, atol=atol, rtol=0)


class TestBits:
    @pytest.mark.parametrize(
        ("ablation", "budget"), [*((name, SMALL) for name in ABLATIONS), ("counterfactual", 0), ("mean", LARGE)]
    )
    def test_memory_cold_disk_and_warm_disk_are_the_same(self, compiled, disk, calls, ablation, budget):
        memory = drawn(runs_of(compiled, ablation=ablation))
        cold = runs_of(compiled, ablation=ablation, budget_bytes=budget, disk=disk)
        assert cold.filled == RunCounts(computed=N)
        assert cold.short == (ablation == "counterfactual" and budget == SMALL)
        first = drawn(cold)
        if cold.short:
            assert_all_said_the_same(first, memory)
        else:
            assert_all_same(first, memory)
        calls.clear()
        warm = runs_of(compiled, ablation=ablation, budget_bytes=budget, disk=disk)
        assert_all_same(drawn(warm), first)
        assert calls == ({"read_again": len(first)} if warm.short else {})
        assert warm.filled == RunCounts(disk=N)
        for runs in (cold, warm):
            assert runs.drawn.computed == runs.kept().computed == 0
            assert runs.drawn.memory == 0 if budget == 0 else runs.drawn.memory > 0
            assert runs.drawn.disk == 0 if budget == LARGE else runs.drawn.disk > 0 or ablation != "counterfactual"

    def test_each_chunk_is_a_fresh_run_bit_for_bit(self, compiled, disk):
        runs_of(compiled, disk=disk)
        warm = runs_of(compiled, disk=disk, budget_bytes=0)
        bare = runs_of(compiled, budget_bytes=0)
        for members in warm.by_length.values():
            for start in range(0, len(members), 3):
                chunk = members[start : start + 3]  # the company it was run in
                assert_same(warm.batch(chunk), bare.batch(chunk))

    def test_memory_disk_and_fresh_in_one_batch(self, gpt2, disk):
        """The first prompts in memory, some on disk, some nowhere; also lengths mixed, which nothing kept fits."""
        runs = runs_of(gpt2, disk=disk, budget_bytes=12_000)
        gone = sorted(disk.folder.rglob("values-*"), key=lambda path: path.stat().st_mtime_ns)[::2]
        for path in gone:
            path.unlink()
        limited = DiskCache(disk.folder, budget_bytes=1, spare_bytes=0)
        runs = runs_of(gpt2, disk=limited, budget_bytes=5_000)
        tiers = runs.kept()
        assert min(tiers.memory, tiers.disk, tiers.computed) > 0, tiers
        for members in runs.by_length.values():
            assert_right(runs.batch(members[::-1]), gpt2)
        assert runs.drawn == tiers
        everything = runs.batch(np.arange(N))
        assert everything.pairs.clean.attention_mask.shape == (N, 5)
        torch.testing.assert_close(everything.teacher, gpt2.logits(everything.pairs.clean), atol=1e-5, rtol=0)


class TestNothingElseRuns:
    @pytest.mark.parametrize("budget", [0, SMALL, LARGE])
    def test_a_training_step(self, gpt2, disk, calls, budget):
        """But for what the short form leaves out of a run: the heads' projections, once a batch."""
        runs_of(gpt2, disk=disk, budget_bytes=budget)
        recipe = recipe_named("quick").changed(steps=4, batch_size=2)
        calls.clear()
        runs = runs_of(gpt2, disk=disk, budget_bytes=budget)
        assert runs.short == (budget == SMALL)
        trainer = Trainer(gpt2, runs, recipe, objective="kl", seed=0)
        assert calls["reference_run"] == 0, "nor the warm start"
        for step in range(4):
            calls.clear()
            trainer.step(step)
            assert calls == {"run_pass": 1, **({"read_again": 1} if runs.short else {})}

    @pytest.mark.parametrize("budget", [0, SMALL, LARGE])
    def test_a_draw(self, gpt2, disk, budget):
        """In short form, each token by four square matrices a layer, the heads' projections; otherwise no product."""
        runs_of(gpt2, disk=disk, budget_bytes=budget)
        warm = runs_of(gpt2, disk=disk, budget_bytes=budget)
        shape, prompts = gpt2.shape, warm.by_length[5][:4]
        with FlopCounterMode(display=False, custom_mapping={CPU_ATTENTION: lambda *_, **__: 1}) as counted:
            tensors(warm.batch(prompts).values)
        projections = shape.n_layers * 4 * shape.d_model**2 * 5 * len(prompts)
        assert counted.get_total_flops() == (2 * projections if budget == SMALL else 0)

    def test_without_a_cache_the_count_would_show_it(self, gpt2, calls):
        runs = runs_of(gpt2, budget_bytes=0)
        assert not calls, "nor is anything run to be thrown away"
        runs.batch(np.array([1, 4]))
        assert calls == {"reference_run": 2}
        assert runs.drawn == RunCounts(computed=2)

    def test_another_ablation_needs_the_teacher_no_more(self, gpt2, disk, calls):
        runs_of(gpt2, disk=disk)
        calls.clear()
        drawn(runs_of(gpt2, ablation="zero", disk=disk))
        assert not calls
        runs_of(gpt2, ablation="mean", disk=disk)
        assert calls["reference_run"] == 4, "ten prompts, three at a time"

    def test_means_are_kept_with_their_data(self, gpt2, disk, calls):
        one = runs_of(gpt2, ablation="mean", disk=disk)
        calls.clear()
        again = runs_of(gpt2, ablation="mean", disk=disk)
        assert not calls
        other = runs_of(gpt2, ablation="mean", disk=disk, ablation_data=random_prompts(lengths=LENGTHS, seed=5))
        assert calls["reference_run"] == 4
        assert all(torch.equal(x, y) for x, y in zip(tensors(one.constant), tensors(again.constant), strict=True))
        assert not torch.equal(one.constant.mlps[1], other.constant.mlps[1])

    def test_a_batch_copies_its_rows_alone(self, gpt2, disk):
        many = random_prompts(lengths=[6] * 64)
        for budget in (0, LARGE):
            runs = FrozenRuns(gpt2, many, ablation="counterfactual", disk=disk, budget_bytes=budget, batch_size=32)
            with Copied() as copied:
                batch = runs.batch(np.array([3, 60, 31, 8]))
                asked_for = (batch.teacher, *tensors(batch.values))
            rows = sum(tensor.nbytes for tensor in asked_for)
            assert rows <= copied.n_bytes < 5 * rows, "all prompts would be 16 times as much"


class Copied(TorchDispatchMode):
    """Bytes of all tensors made that are no views."""

    n_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        given = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in given:
            self.n_bytes += made.nbytes
        return made


class TestBudgets:
    @pytest.mark.parametrize("ablation", ["counterfactual", "zero"])
    @pytest.mark.parametrize("budget", [0, 100, 2_000, 5_000, 12_000, 30_000, LARGE])
    def test_memory_stays_within_its_budget(self, gpt2, ablation, budget):
        runs = runs_of(gpt2, ablation=ablation, budget_bytes=budget)
        blocks = [rows._block for by_kind in runs._kept_rows.values() for rows in by_kind.values()]
        assert sum(block.n_bytes for block in blocks if block is not None) <= budget
        for members in runs.by_length.values():
            batch = runs.batch(members)
            torch.testing.assert_close(batch.teacher, gpt2.logits(batch.pairs.clean), atol=1e-5, rtol=0)
        assert runs.drawn.total == N

    @pytest.mark.parametrize("budget", [0, 1, 70_000, 90_000, 120_000])
    def test_the_folder_stays_within_its_budget(self, gpt2, tmp_path, budget):
        disk = DiskCache(tmp_path / "frozen", budget_bytes=budget, spare_bytes=0)
        for _ in range(2):
            runs = runs_of(gpt2, budget_bytes=0, disk=disk)
            held = sum(entry.n_bytes for entry in files.entries(disk.folder))
            assert held <= budget and (held > 0) == (budget >= 70_000)
            for members in runs.by_length.values():
                assert_right(runs.batch(members), gpt2)
            assert runs.drawn == runs.kept()

    def test_what_would_not_fit_is_not_run_in_vain(self, gpt2, tmp_path, calls):
        disk = DiskCache(tmp_path / "frozen", budget_bytes=70_000, spare_bytes=0)
        runs_of(gpt2, budget_bytes=0, disk=disk)
        kinds = {entry.about["kind"] for entry in files.entries(disk.folder)}
        assert kinds == {"teacher"}, "no chunk of values fits"
        n_files = len(files.entries(disk.folder))
        assert calls["reference_run"] == n_files + 1, "the first chunk of values shows their size"

    def test_zero_and_zero_write_nothing(self, gpt2, tmp_path):
        runs = runs_of(gpt2, budget_bytes=0, disk=DiskCache(tmp_path / "frozen", budget_bytes=0))
        assert_right(runs.batch(np.array([1, 4])), gpt2)
        assert not (tmp_path / "frozen").exists() and runs.filled == RunCounts()

    def test_zero_reads_nothing_either(self, gpt2, disk):
        runs_of(gpt2, disk=disk)
        assert runs_of(gpt2, disk=DiskCache(disk.folder, budget_bytes=0)).filled == RunCounts(computed=N)

    def test_another_task_pushes_out_the_older(self, gpt2, disk):
        runs_of(gpt2, disk=disk)
        size = sum(entry.n_bytes for entry in files.entries(disk.folder))
        bounded = DiskCache(disk.folder, budget_bytes=size + (64 << 10), spare_bytes=0)
        others = random_prompts(lengths=LENGTHS, seed=3)
        assert FrozenRuns(gpt2, others, ablation="counterfactual", disk=bounded).filled.computed == N
        again = runs_of(gpt2, disk=DiskCache(disk.folder, spare_bytes=0))
        assert again.filled.computed > 0

    def test_what_is_told(self, gpt2, disk):
        assert runs_of(gpt2).describe() == "0 read from disk, 10 run; 10 kept in memory, 0 on disk"
        assert runs_of(gpt2, budget_bytes=0).describe() == (
            "0 kept in memory, 0 on disk, 10 run again each time they are drawn"
        )
        runs_of(gpt2, disk=disk)
        warm = runs_of(gpt2, disk=disk, budget_bytes=0)
        warm.batch(np.array([1, 4]))
        assert warm.describe() == "10 read from disk, 0 run; 0 kept in memory, 10 on disk"
        assert warm.counts() == {
            "filled": {"memory": 0, "disk": 10, "computed": 0},
            "kept": {"memory": 0, "disk": 10, "computed": 0},
            "drawn": {"memory": 0, "disk": 2, "computed": 0},
        }


class TestNeverWrong:
    def assert_new(
        self, compiled: CompiledModel, disk: DiskCache, pairs: EncodedPairs = PROMPTS, *, as_before: int = 0
    ) -> None:
        """Nothing of the folder is taken but prompts that are as before, and what is said is right."""
        runs = FrozenRuns(compiled, pairs, ablation="counterfactual", disk=disk, batch_size=3)
        assert runs.filled == RunCounts(computed=len(pairs) - as_before, disk=as_before)
        assert_right(runs.batch(runs.by_length[5]), compiled)

    def test_weights_trained_on(self, tiny_gpt2, disk):
        model = tiny_gpt2()
        compiled = compile_model(model, verify=False)
        runs_of(compiled, disk=disk)
        with torch.no_grad():
            model.transformer.h[1].mlp.c_proj.weight += 0.5
        self.assert_new(compiled, disk)

    def test_another_model_of_the_same_shape_and_name(self, tiny_gpt2, gpt2, disk):
        runs_of(gpt2, disk=disk)
        other = compile_model(tiny_gpt2(seed=1), verify=False)
        assert (other.name, other.config_hash) == (gpt2.name, gpt2.config_hash)
        self.assert_new(other, disk)

    def test_another_counterfactual(self, gpt2, disk):
        runs_of(gpt2, disk=disk)
        changed = [ids.copy() for ids in PROMPTS.corrupted_ids]
        for ids in changed:
            ids[1] = (ids[1] + 1) % 29
        self.assert_new(gpt2, disk, replace(PROMPTS, corrupted_ids=tuple(changed)))

    def test_other_asked_positions(self, gpt2, disk):
        runs_of(gpt2, disk=disk)
        asked = tuple(np.arange(len(at)) for at in PROMPTS.predict_positions)
        self.assert_new(gpt2, disk, replace(PROMPTS, predict_positions=asked), as_before=3)  # all of theirs are asked

    def test_a_folder_cut_short_is_made_again(self, gpt2, disk):
        memory = drawn(runs_of(gpt2))
        runs_of(gpt2, disk=disk)
        for path in disk.folder.rglob("*.safetensors"):
            os.truncate(path, path.stat().st_size // 2)
        with pytest.warns(CacheWarning, match="cut short"):
            repaired = runs_of(gpt2, disk=disk, budget_bytes=0)
        assert repaired.filled == RunCounts(computed=N)
        assert_all_same(drawn(repaired), memory)
        assert runs_of(gpt2, disk=disk).filled == RunCounts(disk=N)

    def test_a_folder_that_cannot_be_written_is_done_without(self, gpt2, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.warns(CacheWarning, match="kept without it"):
            runs = runs_of(gpt2, disk=DiskCache(tmp_path / "file", spare_bytes=0))
        assert_all_same(drawn(runs), drawn(runs_of(gpt2)))
        assert runs.kept() == RunCounts(memory=N)

    def test_a_folder_cleared_while_in_use(self, gpt2, disk):
        memory = drawn(runs_of(gpt2))
        runs_of(gpt2, disk=disk)
        warm = runs_of(gpt2, disk=disk, budget_bytes=0)
        assert files.clear(disk.folder)[0] > 0
        assert_all_same(drawn(warm), memory)

    def test_some_files_gone(self, gpt2, disk, calls):
        memory = drawn(runs_of(gpt2))
        runs_of(gpt2, disk=disk)
        one = next(iter(sorted(disk.folder.rglob("values-*"))))
        one.unlink()
        calls.clear()
        assert_all_same(drawn(runs_of(gpt2, disk=disk)), memory)
        assert calls == {"reference_run": 1}


class TestTopK:
    def test_the_teacher_is_cut_and_kept_apart(self, gpt2, disk, calls):
        whole = drawn(runs_of(gpt2, disk=disk))
        cut = drawn(runs_of(gpt2, disk=disk, teacher_top_k=4))
        calls.clear()
        again = drawn(runs_of(gpt2, disk=disk, teacher_top_k=4, budget_bytes=0))
        assert not calls
        for full, one, other in zip(whole, cut, again, strict=True):
            expected = TopTeacher.of(full.teacher, 4)
            for kept in (one.teacher, other.teacher):
                assert isinstance(kept, TopTeacher)
                assert torch.equal(kept.ids, expected.ids) and torch.equal(kept.log_rest, expected.log_rest)
                assert torch.equal(kept.log_probabilities, expected.log_probabilities)
            with pytest.raises(ConfigurationError, match="whole vocabulary"):
                _ = one.teacher_logits

    def test_it_takes_less_memory(self, gpt2):
        def n_bytes(top_k: int | None) -> int:
            runs = runs_of(gpt2, ablation="zero", teacher_top_k=top_k)
            return sum(by_kind["teacher"]._block.n_bytes for by_kind in runs._kept_rows.values())

        asked = sum(len(at) for at in PROMPTS.predict_positions)
        assert (n_bytes(None), n_bytes(5)) == (asked * 29 * 4, asked * (5 * 8 + 4))

    def test_as_many_as_the_vocabulary_is_the_vocabulary(self, gpt2, disk, calls):
        whole = drawn(runs_of(gpt2, disk=disk))
        calls.clear()
        assert_all_same(drawn(runs_of(gpt2, disk=disk, teacher_top_k=29)), whole)
        assert not calls

    def test_fewer_than_one(self, gpt2):
        with pytest.raises(ConfigurationError, match="1 or more"):
            runs_of(gpt2, teacher_top_k=0)


def test_two_runs_at_once_in_one_folder(gpt2, disk) -> None:
    """Both were filled cold: what the later wrote replaced the same bytes."""
    both = [runs_of(gpt2, disk=disk, budget_bytes=0) for _ in range(2)]
    for path in Path(disk.folder).rglob("*.safetensors"):
        path.unlink()
    late = runs_of(gpt2, disk=disk, budget_bytes=0)
    assert_all_same(drawn(both[0]), drawn(late))
    assert_all_same(drawn(both[1]), drawn(late))
