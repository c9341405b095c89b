"""A LoRA encoder at serving: adapters merged into the weights, as the predictor loads them, against adapters kept apart.

usage: mistere bench adapter_merge [--turns 40]

The text encoder of the profile `sample` (MiniLM, 22 M parameters) with LoRA of rank 8 on query, key and value, one utterance of 16
tokens at a time on this machine's cores. The two arms alternate; ratios are of each turn.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel

from mistere.model.encoders.lookup.source_check import installed_weights
from pipelines.profiles import load_profile

CALLS = 25


def median_ms(call: Callable[[], object]) -> float:
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=40)
    turns = parser.parse_args().turns
    _, weights = installed_weights(load_profile("sample").text.source.partition(":")[2])
    base = AutoModel.from_pretrained(str(weights.parent), local_files_only=True, use_safetensors=True).eval()
    adapters = LoraConfig(r=8, lora_alpha=32, target_modules=["query", "key", "value"], init_lora_weights=False)
    apart = get_peft_model(copy.deepcopy(base), adapters).eval()
    start = time.perf_counter()
    merged = copy.deepcopy(apart).merge_and_unload().eval()
    seconds = time.perf_counter() - start
    tokens = {"input_ids": torch.randint(1000, 20000, (1, 16)), "attention_mask": torch.ones(1, 16, dtype=torch.long)}
    with torch.inference_mode():
        difference = (merged(**tokens).last_hidden_state - apart(**tokens).last_hidden_state).abs().max().item()
        for model in (merged, apart):
            median_ms(lambda model=model: model(**tokens))  # type: ignore[misc]  # warm-up
        pairs = np.array(
            [(median_ms(lambda: merged(**tokens)), median_ms(lambda: apart(**tokens))) for _ in range(turns)]
        )
    ratio = pairs[:, 1] / pairs[:, 0]
    print(
        f"merged {np.median(pairs[:, 0]):.2f} ms, adapters apart {np.median(pairs[:, 1]):.2f} ms an utterance: {np.median(ratio):.2f}x "
        f"(half of {turns} turns from {np.quantile(ratio, 0.25):.2f} to {np.quantile(ratio, 0.75):.2f})"
    )
    print(f"merging takes {1000 * seconds:.0f} ms, copies included; largest difference of a state {difference:.1e}")


if __name__ == "__main__":
    main()
