"""An extracted circuit on a device: the same logits, and no waiting where it is not told of padding."""

from __future__ import annotations

import pytest
import torch

from circuitgraph.transfer import to_device
from tests.circuitgraph.extract.extract_cases import Bench, circuit_of
from tests.oracles.cases import ModelMakers
from tests.pretend_device import DEVICE, Elsewhere, PretendDevice


@pytest.mark.parametrize("case", ["gpt2", "llama-gqa"])
def test_the_same_logits_as_on_the_host(case: str, tiny_gpt2, tiny_llama) -> None:
    bench = Bench(ModelMakers(tiny_gpt2, tiny_llama).compile(case, dtype=torch.float64), side="none")
    module = bench.extracted(circuit_of(bench.compiled, 0.4, 1, "mean"), bench.values("mean"))
    with torch.no_grad():
        expected = module(bench.batch.input_ids)
        with PretendDevice() as device:
            found = device.send_model(module)(to_device(bench.batch.input_ids, DEVICE))
            assert device.waits == [] and isinstance(found, Elsewhere)
            torch.testing.assert_close(found.held, expected, atol=1e-9, rtol=1e-9)
