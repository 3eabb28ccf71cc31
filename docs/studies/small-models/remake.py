"""Makes the result of `docs/studies/small-models.md`: `python docs/studies/small-models/remake.py`."""

from __future__ import annotations

import json
from pathlib import Path

from circuitgraph import compile_model, load_model
from pruning import load_task, shrink

HERE = Path(__file__).parent
SIZES = {"train": 48, "validation": 0, "test": 200}


def main() -> None:
    """Search, extract, measure, and keep the report; the small model itself is not kept."""
    compiled = compile_model(load_model("smollm2-135m"))
    task = load_task("greater-than", compiled.tokenizer, sizes=SIZES)
    small = shrink(compiled, task, threshold=0.085, batch_size=16, repeats=7, say=print)
    live = {"live_heads": small.extracted.live_heads, "live_mlps": small.extracted.live_mlps}
    text = json.dumps({**live, **small.to_dict()}, indent=2)
    (HERE / "greater-than.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
