"""The guide's numbers about methods, computed from models' shapes: the tables of docs/guide/choose.md.

    python bench/guide.py

Shares and sizes of adapters are exact, memory is the estimate of the preflight: one GPU, one row of 1,024 tokens at once,
activations recomputed, rank 16 on all linear layers.
"""

import sys

from common import REPOSITORY, parser

sys.path.insert(0, str(REPOSITORY / "scripts"))
from posttrain.guidance import fitting, tables
from posttrain.guidance.facts import Place
from posttrain.methods import METHODS
from posttrain.models.memory_estimate import GIB, trained_parameters
from posttrain.planning import published
from posttrain.planning.published import SHAPES

SHOWN = ("135M", "1B", "7B", "8B", "14B", "32B", "65B", "70B")
METHODS_SHOWN = ("full", "lora", "qlora")
LENGTH, RANK = 1024, 16
PLACE = Place("gpu", 80, 80 * GIB, 1, True, "")
FIT = fitting.Fit(
    {"gradient_accumulation_steps": 8, "gradient_checkpointing": True, "max_length": LENGTH}, None, 0.0, False
)


def main() -> None:
    parser(__doc__).parse_args()
    print(memory())
    print()
    print(adapters())


def memory() -> str:
    """GiB that SFT takes at least, by size and method."""
    lines = ["| | full | lora | qlora | 4 bits save |", "|---|---|---|---|---|"]
    for size in SHOWN:
        gib = [needed(size, method) for method in METHODS_SHOWN]
        lines.append(
            f"| {size} | "
            + " | ".join(f"{need:,.1f}" for need in gib)
            + f" | {1 - gib[2] / gib[1]:.0%} |".replace("%", " %")
        )
    return "\n".join(lines)


def needed(size: str, method: str) -> float:
    """GiB of a training by a method with the settings of this page."""
    rank = {"rank": RANK} if METHODS[method].rank else {}
    run = {"objective": "sft", "method": method, "batch_size": 8} | rank
    return fitting.needed(run, FIT, published.model(SHAPES[size]), PLACE)


def share(size: str, rank: int = RANK, modules: str | list[str] = "all-linear") -> tuple[float, float]:
    """What share of a model an adapter trains, and the MB of its file."""
    model = published.model(SHAPES[size])
    trained = trained_parameters({"method": "lora", "rank": rank, "target_modules": modules}, model)
    return trained / model.parameters, 4e-6 * trained


def adapters() -> str:
    """Shares that a LoRA trains, and the sizes of its file."""
    lines = [
        "| | rank 8 | rank 16 | rank 64 | rank 16, queries and values | file at rank 16 |",
        "|---|---|---|---|---|---|",
    ]
    for size in SHOWN:
        shares = [share(size, rank)[0] for rank in (8, 16, 64)] + [share(size, RANK, ["q_proj", "v_proj"])[0]]
        cells = [f"{one:.2%}".replace("%", " %") for one in shares] + [f"{share(size)[1]:,.0f} MB"]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def computed() -> dict[str, str]:
    """The claims whose numbers are computed here, in the words of the table of claims."""
    percent = {size: f"{share(size)[0]:.1%} at {size}".replace("%", " %") for size in ("135M", "1B", "8B", "70B")}
    files = {size: f"{share(size)[1]:,.0f} MB at {size}" for size in ("135M", "1B", "8B")}
    example = f"{share('8B', RANK, ['q_proj', 'v_proj'])[0]:.2%}".replace("%", " %")
    said = {
        "claim-lora-share": f"rank 16 on all linear layers: {', '.join(percent.values())}; on queries and values, as in the guide's "
        f"example, {example} at 8B",
        "claim-lora-least": f"rank 8 on all linear layers: {share('8B', 8)[0]:.2%} at 8B; not compared with full fine-tuning here".replace(
            "%", " %"
        ),
        "claim-adapter-size": f"rank 16 on all linear layers, float32: {', '.join(files.values())}",
        "claim-qlora-65b": f"{needed('65B', 'qlora'):.0f} GiB with rows of {LENGTH:,} tokens, one at once, activations recomputed",
    }
    return {claim.id: said[claim.id] for claim in tables.CLAIMS if claim.id in said}


if __name__ == "__main__":
    main()
