"""A new project: what `posttrain init` writes into a folder, and sample rows for a configuration whose own are not there yet."""

import json
import re
import tempfile
from pathlib import Path

from posttrain.runtime.atomic import whole_file
from posttrain.runtime.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[3]
WORKFLOW = str(REPOSITORY / "Snakefile")
"""for the Snakefile of a project, which includes it"""

SNAKEFILE = '''\
"""The workflow of posttrain, for this folder: `snakemake --cores 1 results/dpo_lora/eval.json`."""

from posttrain.guidance.project import WORKFLOW


include: WORKFLOW
'''
IGNORED = "results/\n.snakemake/\n"
SAMPLES = "examples/data/"
SAMPLE = ("snips_train.jsonl", "snips_test.jsonl", "snips_pairs.jsonl", "snips_pairs_test.jsonl")
DATA = "data"
HEAD = """\
# A small chat model learns to call tools: SFT on right calls, then DPO on pairs of a right and a wrong call.
# Every key, and more configurations to start from: {config}

"""
STAND_INS = {
    "examples": ("snips_train.jsonl", {"command": "prompt", "call": "completion"}),
    "preferences": ("snips_pairs.jsonl", {"command": "prompt"}),
}


def start(folder: Path) -> list[str]:
    """Write a project into `folder`, which is made if it does not exist; returns the names of what was written.

    Raises:
        UserError: a file that would be written is there already, or the folder cannot be written to. Then nothing was written.
    """
    texts = _texts()
    for name in texts:
        place = folder / name
        for path in (place, *place.parents[: len(Path(name).parts)]):
            if path.is_symlink() or (path.exists() and (path == place or not path.is_dir())):
                hint = "name another folder, or move it away"
                raise UserError("file-exists", f"{path}", "it is there already, and init replaces nothing", hint)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".posttrain-init.", dir=folder) as beside:
            for name, text in texts.items():
                file = Path(beside, name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            for name in texts:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Path(beside, name).replace(folder / name)
    except OSError as error:
        raise UserError(
            "missing-file", f"{folder}", f"it cannot be written to ({error.strerror})", "name another folder"
        ) from None
    return list(texts)


def _texts() -> dict[str, str]:
    """The files of a new project."""
    texts = {"config/config.yaml": _configuration(), "Snakefile": SNAKEFILE, ".gitignore": IGNORED}
    profiles = REPOSITORY / "profiles"
    texts |= {str(file.relative_to(REPOSITORY)): file.read_text("utf-8") for file in sorted(profiles.glob("*/*.yaml"))}
    texts |= {f"{DATA}/{name}": (REPOSITORY / SAMPLES / name).read_text("utf-8") for name in SAMPLE}
    return texts | {f"{DATA}/README.md": _notice()}


def _configuration() -> str:
    """The quickstart of the repository, with data of this folder."""
    text = (REPOSITORY / "config/config.yaml").read_text("utf-8").replace(SAMPLES, f"{DATA}/")
    return HEAD.format(config=REPOSITORY / "config") + text[text.index("bases:") :]


def _notice() -> str:
    """The origin and the licence of the sample rows."""
    text = (REPOSITORY / SAMPLES / "README.md").read_text("utf-8")
    about = re.search(r"^\*\*Snips\*\*.*?(?=^\*\*)", text, re.DOTALL | re.MULTILINE)[0]
    kept = about.split("- Made by")[0].strip()  # how the files are made is the repository's
    rows = [line for line in text.splitlines() if line.startswith(("| file", "|---", "| `snips"))]
    return "\n".join(["# Sample data", "", *rows, "", kept, ""])


def stand_in(name: str, file: Path) -> None:
    """Write sample rows to `file`, for people to replace with theirs: `examples` or `preferences`. An existing file is kept."""
    source, names = STAND_INS[name]
    if file.exists():
        return
    rows = map(json.loads, (REPOSITORY / SAMPLES / source).read_text("utf-8").splitlines())
    with whole_file(file) as beside:
        beside.write_text(
            "".join(json.dumps({names.get(key, key): value for key, value in row.items()}) + "\n" for row in rows)
        )


def snakemake(folder: Path) -> str:
    """The command with which Snakemake finds the workflow from a folder."""
    return "snakemake" if (folder / "Snakefile").exists() else f"snakemake -s {WORKFLOW}"


def write(text: str, file: Path) -> None:
    """Write a configuration, whole or not at all."""
    try:
        with whole_file(file) as beside:
            beside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            "missing-file", f"{file}", f"it cannot be written ({error.strerror})", "name another --output"
        ) from None
