"""The memory estimate, part by part, and the plan: which way of running a batch is taken. All worked by hand."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from circuitgraph.architectures import ModelShape, family_of
from circuitgraph.cli.graph import count
from circuitgraph.compiled.compile import compile_model
from circuitgraph.errors import ConfigurationError, UnknownNameError
from circuitgraph.forward.engine.choose import SWITCH
from circuitgraph.forward.plan.plan import plan_step
from circuitgraph.forward.stream.buffer import overlapping
from circuitgraph.graph.universe import Universe
from circuitgraph.memory import available
from circuitgraph.memory.available import available_bytes, group_rooms
from circuitgraph.memory.estimate import MemoryEstimate, estimate_memory
from circuitgraph.memory.plan import plan_memory
from circuitgraph.memory.sizes import count_parameters
from circuitgraph.models import load_config
from pruning.prompts.encoding import EncodedPairs
from pruning.runs.run import run_of
from pruning.tasks import TaskData

MIB = 1 << 20
NOTHING = MemoryEstimate(**dict.fromkeys(MemoryEstimate.__dataclass_fields__, 0))


@pytest.fixture(autouse=True)
def _without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing else is said, estimates are of a run without the CPU's kernels, whatever is installed here."""
    monkeypatch.setenv(SWITCH, "0")


def estimate(prompts: int, recompute: bool, cache: int = 0) -> MemoryEstimate:
    """100 bytes of weights, and 10 a prompt, or 6 where MLPs are run again; 40 are cached, and 3 more if not all."""
    cached = {"cache": min(cache, 40), "filling": 3 if 0 < cache < 40 else 0}
    return replace(NOTHING, weights=100, activations=prompts * (6 if recompute else 10), **cached)


def decided(limit: int | None, *, batch_size: int = 16, seq: int = 200, **given) -> tuple[int, int, bool, bool]:
    plan = plan_memory(estimate, batch_size=batch_size, seq=seq, limit_bytes=limit, cache_bytes=0, **given)
    return plan.micro_batch, plan.accumulation, plan.recompute, plan.fits


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, (16, 1, False, True)),
        (260, (16, 1, False, True)),
        (259, (8, 2, False, True)),  # 180: half a batch, before MLPs are run again at 196
        (179, (4, 4, False, True)),  # 140: still 800 tokens at once
        (139, (4, 4, True, True)),  # 124: the next half would be below 512 tokens
        (123, (2, 8, False, True)),
        (107, (1, 16, True, True)),
        (99, (1, 16, True, False)),
    ],
)
def test_halves_while_large_then_runs_mlps_again(limit: int | None, expected: tuple[int, int, bool, bool]) -> None:
    assert decided(limit) == expected


def test_a_batch_that_halves_do_not_divide() -> None:
    assert decided(155, batch_size=10) == (5, 2, False, True)
    assert decided(135, batch_size=10) == (3, 4, False, True)


def test_what_the_user_decided_stays() -> None:
    assert decided(None, micro_batch=3) == (3, 6, False, True)
    assert decided(200, recompute=True) == (16, 1, True, True)
    assert decided(130, recompute=False) == (2, 8, False, True)
    with pytest.raises(ConfigurationError, match="at least 1 prompt; got 0"):
        decided(None, micro_batch=0)


def test_a_plan_says_what_it_is() -> None:
    plan = plan_memory(estimate, batch_size=16, seq=200, cache_bytes=0, limit_bytes=123)
    found = plan.to_dict()
    assert (found["total"], found["micro_batch"], found["accumulation"], found["fits"]) == (120, 2, 8, True)


@pytest.mark.parametrize(
    ("limit", "expected", "held"),
    [
        (180, (4, False, 60), 180),  # 100 + 4 × 10 and all 40: a budget of more than that stays
        (164, (4, True, 60), 164),
        (163, (4, False, 20), 163),  # 140 and 23 are left for 20 and the 3 that a part takes more
        (143, (4, False, 0), 140),  # 3 are left, and hold nothing
        (139, (4, True, 12), 139),  # 124
        (123, (2, False, 0), 120),
        (105, (1, True, 0), 106),  # nothing fits
    ],
)
def test_the_cache_gets_what_is_left_before_batches_get_small(
    limit: int, expected: tuple[int, bool, int], held: int
) -> None:
    plan = plan_memory(estimate, batch_size=16, seq=200, cache_bytes=60, limit_bytes=limit)
    assert (plan.micro_batch, plan.recompute, plan.cache_bytes, plan.estimate.total) == (*expected, held)
    assert plan.fits == (limit >= held) and plan.to_dict()["cache_bytes"] == expected[2]
    assert ("the cache gets 0.0 of 0.0 GiB" in plan.describe()) == (expected[2] < 60)


def test_what_does_not_fit_is_refused_part_by_part() -> None:
    def large(prompts: int, recompute: bool, cache: int) -> MemoryEstimate:
        return replace(NOTHING, weights=3 << 30, activations=prompts << 30)

    plan_memory(large, batch_size=2, seq=9, limit_bytes=4 << 30).require("free")
    plan_memory(large, batch_size=2, seq=9, limit_bytes=None).require("free")
    plan = plan_memory(large, batch_size=2, seq=9, limit_bytes=7 << 29)
    with pytest.raises(ConfigurationError) as refused:
        plan.require("what a test lets it take")
    told = str(refused.value)
    assert "4.000 GiB at its peak with 1 prompt at once, and 3.500 GiB is what a test lets it take" in told
    assert "\n  weights         3.000 GiB\n" in told and "\n  activations     1.000 GiB\n" in told
    assert "take shorter prompts, bfloat16 or a smaller model" in told and "--memory-gib" in told


class TestControlGroups:
    """A folder as the kernel shows it: limit, use, and file caches, which can be taken back."""

    def rooms(self, tmp_path: Path, lines: str) -> list[int]:
        (tmp_path / "cgroup").write_text(lines)
        return list(group_rooms(tmp_path / "cgroup", tmp_path / "fs"))

    def group(self, folder: Path, names: tuple[str, str], limit: object, used: int, cached: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in zip(names, (limit, used), strict=True):
            (folder / name).write_text(f"{value}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{cached}\n")

    def test_version_2_and_the_groups_above(self, tmp_path: Path) -> None:
        names = ("memory.max", "memory.current")
        self.group(tmp_path / "fs" / "jobs" / "mine", names, "max", 500, "inactive_file 7")
        self.group(tmp_path / "fs" / "jobs", names, 1000, 600, "inactive_file 50")
        self.group(tmp_path / "fs", names, 2000, 3000, "inactive_file 9")
        assert self.rooms(tmp_path, "0::/jobs/mine\n") == [450, 0]
        assert self.rooms(tmp_path, "0::/elsewhere\n") == [0], "a container sees its own as the topmost"

    def test_version_1(self, tmp_path: Path) -> None:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        self.group(tmp_path / "fs" / "memory" / "mine", names, 900, 300, "total_inactive_file 20")
        assert self.rooms(tmp_path, "5:cpu:/mine\n4:memory:/mine\n0::/\n") == [620]

    def test_none(self, tmp_path: Path) -> None:
        assert self.rooms(tmp_path, "0::/\n") == []
        assert list(group_rooms(tmp_path / "not there", tmp_path)) == []

    def test_the_smallest_room_is_what_is_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(available, "group_rooms", lambda: iter([123, 1 << 60]))
        assert available_bytes() in (123, None)


def test_free_memory_is_told_or_unknown() -> None:
    free = available_bytes()
    assert free is None or free > 1 << 20


SMALL = ModelShape(
    n_layers=1, n_heads=2, n_kv_heads=2, d_model=4, d_head=2, d_mlp=8, d_vocab=10, n_positions=8,
    learned_positions=True, mlp_saved=4, mlp_saved_narrow=5,
)  # fmt: skip
ONE_LAYER = Universe(family="gpt2", n_layers=1, n_heads=2, n_kv_heads=2)


def of_small(**settings) -> MemoryEstimate:
    """Of one layer of two heads; 3 prompts of 5 tokens, in float32: 240 bytes a residual stream of all 15."""
    return estimate_memory(
        SMALL, ONE_LAYER, **{"n_parameters": 100, "batch_size": 3, "seq": 5, "n_prompts": 7, **settings}
    )


class TestEstimate:
    def test_every_part(self):
        found = of_small()
        assert found == MemoryEstimate(
            weights=400,
            # Keys and values of two heads and the input at all 15 tokens, 5 rows. Two queries, the MLP and the logits
            # at the 3 asked ones, each above what it sees of input, two heads and MLP: 5 rows of 48 bytes.
            stream=5 * 240 + 5 * 48,
            scratch=4 * 240,  # the keys and values
            # Keys and values at 15 tokens, queries and outputs at 3, each of two heads of 2; 4 times 8 of the MLP at 3.
            activations=((2 * 15 + 2 * 3) * 4 + 4 * 8 * 3) * 4,
            # The ablated stream before the attention, the MLP and the logits; the running one after input, heads, MLP.
            sums=3 * 240 + 3 * 240,
            working=4 * 8 * 15 * 4,  # four times the MLP's inside; half of six readers are less, 3 * 240
            logits=6 * 3 * 10 * 4,
            # A prompt: the two embeddings, the attention, the MLP and the heads, their queries, keys and values (4
            # each) at 5 tokens, and 10 logits.
            cache=7 * (32 * 5 + 10) * 4,
            filling=0,  # 7 prompts of these values, 4,480 bytes, are less than the 7,584 of the parts of a step
            gates=140 * (6 + 3 + 4),  # edges into queries, keys and values, the MLP, the logits
            heap=3 * 240,  # half of six readers
            program=480 * MIB,
        )

    @pytest.mark.parametrize(
        ("dtype", "share", "expected"),
        [
            # Unfolded the gradients of ten readers would stand above the input's delta: 11 rows. Folded before layer 1,
            # six gradients stand above the three deltas that its attention sees, 9 rows, and then three sums and four
            # gradients above the input's, 8.
            ("float32", 1.0, 9 * 64 * 4 + 8 * 2 * 4),
            ("bfloat16", 1.0, (9 * 64 + 8 * 2) * 2),
            ("float32", 0.5, (9 * 32 + 8 * 2) * 4),
        ],
    )
    def test_the_buffer_is_folded(self, dtype, share, expected):
        shape = replace(SMALL, n_layers=3, n_heads=1, n_kv_heads=1, d_model=1 << 15)
        universe = Universe(family="gpt2", n_layers=3, n_heads=1, n_kv_heads=1)
        sizes = {"n_parameters": 1, "batch_size": 2, "seq": 32, "dtype": dtype, "share_reached": share}
        # At the asked positions the last query, the last MLP and the logits see 5, 6 and 7 writers: 8 rows.
        assert estimate_memory(shape, universe, **sizes).stream == expected << 15

    def test_a_joint_reader_is_key_and_value_too(self):
        joint = replace(ONE_LAYER, qkv="joint")
        found = estimate_memory(SMALL, joint, n_parameters=1, batch_size=3, seq=5)
        # Two readers and the input at all tokens; the MLP, which sees three writers, and the logits, at those asked.
        assert (found.stream, found.scratch) == (3 * 240 + 5 * 48, 2 * 240)

    def test_mlps_run_again_keep_what_they_read(self):
        found = of_small(recompute=True)
        assert found.activations == ((2 * 15 + 2 * 3) * 4 + 4 * 8 * 15 + 4 * 3) * 4

    def test_narrow_numbers(self):
        found = of_small(dtype="bfloat16")
        assert found.weights == 200
        assert found.activations == ((2 * 15 + 2 * 3) * 4 + 5 * 8 * 3) * 2
        assert found.sums == 3 * 120 + 3 * 240  # the running sum is in float32
        assert found.logits == 6 * 3 * 10 * 4
        # No products of their own: of six readers three took the complement, which is more than two heads wrote.
        assert (found.working, found.heap) == (4 * 8 * 15 * 2, 3 * 120)

    def test_constant_values_have_one_ablated_stream(self):
        found = of_small(ablation="zero", n_prompts=40)
        assert (found.sums, found.cache, found.filling) == (3 * 240, 40 * 10 * 4, 0)

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({}, 5 * 7 * 32),  # 7 prompts' values
            ({"n_prompts": 90}, 5 * 16 * 32),  # 16 at once
            ({"n_prompts": 90, "cache_bytes": 4000}, 5 * 16 * 32),  # kept in short form, and made whole
            ({"n_prompts": 90, "ablation": "mean"}, 5 * 16 * 32 + 3 * 5 * 4),  # with one ablated stream less
        ],
    )
    def test_filling_the_cache_can_take_more_than_a_step(self, settings, expected):
        # One prompt's stream, scratch, activations, sums, working and logits.
        step = (5 * 5 + 5) * 16 + 4 * 80 + ((2 * 5 + 2) * 4 + 4 * 8) * 4 + 6 * 80 + 4 * 8 * 5 * 4 + 6 * 10 * 4
        assert of_small(batch_size=1, **settings).filling == 4 * expected - step

    def test_nothing_is_filled_without_a_cache(self):
        assert of_small(batch_size=1, n_prompts=90, cache_bytes=0).filling == 0

    def test_on_cuda_nothing_of_the_host_counts(self):
        found, host = of_small(device="cuda:0"), of_small()
        assert (found.gates, found.heap, found.program) == (20 * 13, 0, 0)
        assert (found.stream, found.sums, found.cache) == (host.stream, host.sums, host.cache)
        assert found.working == 4 * 8 * 15 * 4

    @pytest.mark.parametrize(
        ("settings", "n_kv_heads", "streams"),
        [
            ({}, 2, 3),  # of six readers half took the complement
            ({"device": "cuda"}, 2, 3),
            ({}, 1, 2),  # of four readers half; two heads wrote
            ({"device": "cuda"}, 1, 2),
            ({"cpu_kernels": True}, 2, 2),  # two heads wrote
            ({"cpu_kernels": True, "dtype": "float64"}, 1, 4),
            ({"cpu_kernels": True, "dtype": "bfloat16"}, 2, 1.5),  # for which there are none: half of six readers
        ],
    )
    def test_what_passes_beside_a_small_mlp(self, settings, n_kv_heads, streams):
        shape, universe = (replace(sizes, n_kv_heads=n_kv_heads) for sizes in (replace(SMALL, d_mlp=1), ONE_LAYER))
        found = estimate_memory(shape, universe, n_parameters=1, batch_size=3, seq=5, **settings)
        assert found.working == streams * 240

    @pytest.mark.parametrize(
        ("d_model", "dtype", "hole"),
        [
            # Three layers of one head, 64 tokens: a stream of width 32,768 takes 8 MiB, half of three readers 12.
            (1 << 15, "float32", 12 * MIB),
            (1 << 16, "float32", 24 * MIB),  # twice that
            (1 << 15, "bfloat16", 6 * MIB),
            (1 << 18, "float32", 8 * 64 * 4),  # all of that is mapped but what is inside the MLP
        ],
    )
    def test_holes_in_the_heap(self, d_model, dtype, hole):
        assert self.heap(d_model, dtype=dtype) == 3 * hole

    def test_holes_with_kernels_are_of_what_a_head_wrote(self):
        assert self.heap(1 << 15, cpu_kernels=True) == 3 * 8 * MIB

    def heap(self, d_model, **settings):
        shape = replace(SMALL, n_layers=3, n_heads=1, n_kv_heads=1, d_model=d_model)
        universe = Universe(family="gpt2", n_layers=3, n_heads=1, n_kv_heads=1)
        return estimate_memory(shape, universe, n_parameters=1, batch_size=2, seq=32, **settings).heap

    def test_the_cache(self):
        # In short form: the two embeddings, the heads and the MLP; a batch is whole again.
        assert of_small(cache_bytes=4000).cache == 7 * (16 * 5 + 10) * 4 + 32 * 15 * 4
        # Three ids and log-probabilities and one number more instead of 10 logits.
        assert of_small(teacher_top_k=3).cache == 7 * (32 * 5 + 3 + 3 + 1) * 4

    def test_parts_add_up(self):
        parts = of_small().to_dict()
        assert parts.pop("total") == of_small().total == sum(parts.values())

    def test_a_budget_of_zero_keeps_one_batch(self):
        config = load_config("tracr:reverse")
        shape = family_of("tracr").shape(config)
        universe = Universe(family="tracr", n_layers=4, n_heads=1, n_kv_heads=1, embeddings="split")
        sizes = {"n_parameters": count_parameters(config), "batch_size": 2, "seq": 6}
        zero = estimate_memory(shape, universe, **sizes, cache_bytes=0, ablation="zero")
        assert zero.cache == 0
        assert estimate_memory(shape, universe, **sizes, cache_bytes=0).cache > 0

    def test_what_is_not_understood_is_refused(self):
        with pytest.raises(UnknownNameError, match="unknown device 'tpu'"):
            of_small(device="tpu")
        with pytest.raises(ConfigurationError, match=r"share_reached must be from 0 to 1; got 1\.5"):
            of_small(share_reached=1.5)

    def test_13_billion_parameters_take_no_time(self):
        shape = ModelShape(
            n_layers=40, n_heads=40, n_kv_heads=40, d_model=5120, d_head=128, d_mlp=13824, d_vocab=32016,
            n_positions=16384, learned_positions=False, mlp_saved=2,
        )  # fmt: skip
        universe = Universe(family="llama", n_layers=40, n_heads=40, n_kv_heads=40)
        began = time.process_time()
        found = estimate_memory(
            shape, universe, n_parameters=13_016_028_160, batch_size=16, seq=64, dtype="bfloat16", device="cuda"
        )
        counts = count(universe)
        plan = plan_memory(lambda *_: found, batch_size=16, seq=64, limit_bytes=None)
        assert time.process_time() - began < 1
        assert counts["edges"]["total"] == 3_877_661 and plan.micro_batch == 16
        # 4,799 readers and 1,600 writers in 3,242 rows, as a pass with all gates open took on 2026-11-28. At the asked
        # positions the logits stand above 1,641 writers, and with them the MLP, above 1,640, and 40 queries.
        assert found.stream == (3242 * 1024 + 1642 * 16) * 5120 * 2


@pytest.mark.parametrize(
    ("order", "n_kv_heads", "n_layers"), [("sequential", 2, 4), ("sequential", 4, 1), ("parallel", 2, 3)]
)
def test_rows_are_those_of_a_pass_with_every_gate_open(order: str, n_kv_heads: int, n_layers: int) -> None:
    universe = Universe(family="llama", n_layers=n_layers, n_heads=4, n_kv_heads=n_kv_heads, block_order=order)
    shape = replace(SMALL, n_layers=n_layers, n_heads=4, n_kv_heads=n_kv_heads, block_order=order)
    every = np.ones(universe.n_edges, dtype=bool)
    plans = plan_step(universe, every, every, constant_when_dead=False).streams
    asked, reached = plans["asked"], plans["reached"]
    starts, seen = zip(*((block.rows.start, block.n_slots) for block in reached.blocks), strict=True)
    n_folded = overlapping(starts, seen, len(reached.edges), reached.n_slots).size
    starts, seen = zip(*((block.rows.start, block.n_slots) for block in asked.blocks), strict=True)
    rows = 100 * n_folded + overlapping(starts, seen, len(asked.edges), asked.n_slots).size
    for kernels in (True, False):
        found = estimate_memory(shape, universe, n_parameters=1, batch_size=1, seq=100, cpu_kernels=kernels)
        assert found.stream == 4 * shape.d_model * rows


def test_counting_parameters_draws_no_random_number(tiny_gpt2) -> None:
    model = tiny_gpt2()
    before = torch.random.get_rng_state()
    assert count_parameters(model.config) == sum(weights.numel() for weights in model.parameters())
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("ablation", "share"),
    # Of 8, 8 and 4 tokens 6, 2 and 4 are reached; the two prompts of most: 10 of 16. Zeros differ everywhere.
    [("counterfactual", 10 / 16), ("zero", 1.0)],
)
def test_a_run_counts_the_tokens_that_its_prompts_reach(tiny_gpt2, ablation: str, share: float) -> None:
    model = tiny_gpt2()
    compiled = compile_model(model, verify=False)
    clean = tuple(np.arange(n) for n in (8, 8, 4))
    corrupted = tuple(ids + (np.arange(len(ids)) == at) for ids, at in zip(clean, (2, 6, 0), strict=True))
    train = EncodedPairs(
        clean_ids=clean,
        corrupted_ids=corrupted,
        predict_positions=tuple(np.array([len(ids) - 1]) for ids in clean),
        answer_ids=(np.array([1]),) * 3,
    )
    task = TaskData(name="t", splits={"train": train}, notes=(), provenance={}, data_hash="", objective="kl")
    run = run_of(compiled, task, None, {"batch_size": 2, "ablation": ablation, "cache_bytes": 1 << 20})
    run = replace(run, settings=replace(run.settings, memory_bytes=1 << 40))
    assert run.memory.estimate == estimate_memory(
        compiled.shape,
        compiled.universe,
        n_parameters=sum(weights.numel() for weights in model.parameters()),
        batch_size=2,
        seq=8,
        share_reached=share,
        n_prompts=3,
        cache_bytes=1 << 20,
        ablation=ablation,
    )
