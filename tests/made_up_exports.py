"""Proofs of exports as `prove_export` leaves them, made up: what their page is tested on."""

from pathlib import Path
from typing import Any

from posttrain.runtime.atomic import write_json

REFERENCE = 538_060_672  # bytes of the trained model


def share(value: float, low: float, high: float, n: int = 64) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n, "clusters": n}


def against(difference: float, low: float, high: float, p: float, detectable: float | None = 0.12) -> dict[str, Any]:
    verdict = "no evidence" if p >= 0.05 else "better" if difference > 0 else "worse"
    found = {"difference": difference, "low": low, "high": high, "p": p, "verdict": verdict}
    return found | ({"detectable": detectable} if verdict == "no evidence" else {})


def proof(
    size: int,
    ratio: float,
    width: float,
    speed: float,
    name: dict,
    program: str = "transformers",
    run: str = "dpo_lora",
) -> dict[str, Any]:
    """A proof whose run has one metric, `calls/tool_name`, 87.5 % before.

    Args:
        name: the comparison with the unquantised model.
    """
    value = 0.875 + name["difference"]
    return {
        "run": run,
        "program": program,
        "program_version": "5.23.0" if program == "transformers" else "b7000",
        "size_bytes": size,
        "greedy_agreement": share(1 - 10 * (ratio - 1), 0.9, 1.0),
        "perplexity_ratio": {
            "value": ratio,
            "low": ratio - width,
            "high": ratio + width,
            "n": 64,
            "clusters": 64,
            "tokens": 1893,
        },
        "same_answers": share(0.9, 0.8, 0.96),
        "same_tokens": {"value": 1.0, "n": 72},
        "same_template": {"value": 1.0, "n": 72},
        "metrics": {"calls/tool_name": share(value, value - 0.1, min(1.0, value + 0.1))},
        "against": {run: {"calls/tool_name": name}},
        "load_seconds": 1.1,
        "tokens_per_second": speed,
        "peak_memory_bytes": 3 * size,
        "limits": {"perplexity_ratio": 1.5, "greedy_agreement": 0.6},
    }


def proofs() -> dict[str, dict[str, Any]]:
    """Four exports: gguf-q8_0 beats int8 in everything, nf4 is smallest and worse, the adapter needs its base."""
    same = against(0.0, -0.04, 0.04, 1.0)
    return {
        "adapter": proof(9_800_000, 1.0, 0.0, 30.0, against(0.0, 0.0, 0.0, 1.0, 0.0)),
        "bf16": proof(269_000_000, 1.0004, 0.001, 25.0, same),
        "gguf-q8_0": proof(144_800_000, 1.002, 0.002, 62.0, same, "llama.cpp"),
        "nf4": proof(110_000_000, 1.05, 0.02, 12.0, against(-0.0625, -0.11, -0.01, 0.02)),
        "int8": proof(162_000_000, 1.01, 0.004, 6.0, same),
    }


def write(folder: Path, found: dict[str, dict[str, Any]] | None = None) -> list[Path]:
    """Leave the files of proofs in a folder; returns them."""
    files = []
    for kind, values in (found or proofs()).items():
        files.append(folder / f"{kind}.json")
        write_json(files[-1], values)
    return files
