"""Merge what training produced into the model that children train on and the one that others load, and prove both.

Reads the parent's model and `trained/`; writes `merged/`, `model/`, the proofs in merge.json, provenance.json and the model card.

`merged/` is the trained model in float32: what children train on, what is the reference, what is evaluated. `model/` is what ships, in
the run's `save_precision`. Each is loaded again from disk and compared with the trained model on real prompts, see
posttrain/models/merge_proof.py. Tokenizer, chat templates and generation configuration are the parent's files.

An adapter that was trained on a 4-bit parent is merged into that parent's dequantised weights, since merging inside 4 bits
would quantise again, and the original parent is not what it was trained on (`merge_into` says otherwise where it should);
merge.json has the drift of both. What cannot be merged is kept beside its parent, in `base/`.

    python scripts/merge_model.py --spec results/sft_lora/spec.json --parent results/bases/smollm2/model \
        --shipped results/bases/smollm2/model --manifest results/bases/smollm2/base.json \
        --tokens results/tokens/smollm2/snips,max_length=1024 --preflight results/sft_lora/preflight.json
"""

from pathlib import Path
from typing import Any

from posttrain.methods import METHODS, reference_form
from posttrain.models.model_files import carry, is_own, link_all
from posttrain.objectives import OBJECTIVES
from posttrain.provenance.records import code_hash, hashes, sealed, versions
from posttrain.reports import model_card
from posttrain.runtime.atomic import link, read_json, whole_folder, write_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import folder_hashes, sha256
from posttrain.runtime.script import arguments, run

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def main(options) -> None:
    from posttrain.models import loading, merge_proof

    run_folder = options.spec.parent
    name, trained, spec = run_folder.name, run_folder / "trained", read_json(options.spec)
    prompts = merge_proof.real_prompts(options.tokens, loading.is_reward(trained), options.parent)
    before = read_json(options.manifest)
    base_dtype = before.get("base_dtype") or loading.dtype_of(options.parent)
    model, reference, drift = trained_model(options.parent, trained, spec, prompts)
    with whole_folder(run_folder / "merged") as merged, whole_folder(run_folder / "model") as shipped:
        dtype = write_merged(model, options.parent, trained, spec, base_dtype, merged)
        del model
        if METHODS[spec["method"]].mergeable:
            merge_proof.check_tensors(name, options.parent, merged)
        proof = reference.measure(merge_proof.logits(load_fp32(merged), prompts)) | {"dtype": dtype}
        tell(name, spec, proof)
        merge_proof.check_merged(name, proof)
        proof["shipped"] = ship(name, spec, base_dtype, options, (merged, shipped), (reference, prompts), proof)
        licences = read_json(options.preflight)["licences"]
        (shipped / "README.md").write_text(model_card.card(name, spec, licences, before.get("base_model")))
        for file in [*merged.iterdir(), *shipped.iterdir()]:
            if is_own(file):
                file.chmod(0o644)
    made = {"merged": folder_hashes(run_folder / "merged"), "model": folder_hashes(run_folder / "model")}
    proof |= drift | {
        "base_dtype": base_dtype,
        **({"base_model": before["base_model"]} if "base_model" in before else {}),
        "files": made["merged"],
    }  # children depend on these, and not on the card
    write_json(run_folder / "merge.json", proof)
    write_json(run_folder / "provenance.json", sealed(provenance(options, spec) | made))


def load_fp32(folder: Path) -> Any:
    """What lies in a folder, in float32 and ready to be measured."""
    import torch

    from posttrain.models import loading

    return loading.load(folder, torch.float32, arithmetic="fp32", device=loading.roomy_device(folder)).eval()


def tell(name: str, spec: dict, proof: dict) -> None:
    """Say what was measured."""
    done = "merged" if METHODS[spec["method"]].mergeable else "adapter and base kept apart"
    say(
        f"{name}: {done}; on {proof['n']} positions training changed the logits by {proof['effect']:.2g} on average, and the "
        f"merged model is {proof['relative']:.2g} of that away from the trained one; the next token agrees on "
        f"{proof['greedy_agreement']:.2%}",
        "summary",
    )


# ---- what was trained


def trained_model(parent: Path, trained: Path, spec: dict, prompts: list[list[int]]) -> tuple[Any, Any, dict]:
    """The trained model in float32, not merged yet; its logits and its parent's; of 4 bits, the drift.

    A reward model's parent has no head of its own, and gets the trained one: the effect is what the rest has learnt.
    """
    from posttrain.models import loading, merge_proof

    if METHODS[spec["method"]].four_bit:
        return unquantised(parent, trained, spec, prompts)
    start = plain_parent(parent, trained, spec)
    before = merge_proof.logits(start, prompts)
    model = load_fp32(trained) if METHODS[spec["method"]].full else loading.add_adapter(start, trained).eval()
    return model, merge_proof.Reference(before, merge_proof.logits(model, prompts)), {}


def plain_parent(parent: Path, trained: Path, spec: dict, dequantised: bool = False) -> Any:
    """The parent in float32, on request as 4 bits have left it."""
    import torch

    from posttrain.models import loading

    reward, labels = loading.is_reward(trained), loading.classes(trained)
    if dequantised:
        model = loading.dequantised(loading.parent(parent, spec, reward, classes=labels)).float()
    else:
        device = loading.roomy_device(parent)
        model = loading.load(parent, torch.float32, reward=reward, device=device, classes=labels)
    if reward and not loading.is_reward(parent):
        model.score.weight.data.copy_(loading.head(trained))
    return model.eval()


def unquantised(parent: Path, trained: Path, spec: dict, prompts: list[list[int]]) -> tuple[Any, Any, dict]:
    """As `trained_model`, on the parent that the adapter is merged into, and how far both parents drift from 4 bits."""
    from posttrain.models import loading, merge_proof

    start = loading.parent(parent, spec, loading.is_reward(trained), classes=loading.classes(trained))
    held = loading.add_adapter(start, trained).eval()
    in_4_bits = merge_proof.logits(held, prompts)
    del held, start
    drift = {}
    for choice in sorted(("dequantised", "original"), key=lambda choice: choice == spec["merge_into"]):
        start = plain_parent(parent, trained, spec, dequantised=choice == "dequantised")
        before = merge_proof.logits(start, prompts)
        model = loading.add_adapter(start, trained).eval()
        after = merge_proof.logits(model, prompts)
        drift[choice] = merge_proof.compare(in_4_bits, after)["max_abs_logit_difference"]
    say(
        f"{trained.parent.name}: logits drift from those in 4 bits by {drift['dequantised']:.2g} on the dequantised parent, by "
        f"{drift['original']:.2g} on the original one"
    )
    return model, merge_proof.Reference(before, after), {"drift": drift, "merged_into": spec["merge_into"]}


# ---- what is written


def write_merged(model: Any, parent: Path, trained: Path, spec: dict, base_dtype: str, folder: Path) -> str:
    """Write the trained model: merged, linked where training wrote it whole, or beside its parent; returns its type."""
    from posttrain.models import frozen_update, loading

    method = METHODS[spec["method"]]
    if not method.mergeable:
        write_adapter_and_base(trained, parent, folder)
        return loading.dtype_of(folder / "base")
    learnt = frozen_update.learnt(model) if method.low_rank else {}
    if method.full:
        link_all(trained, folder, without=("README.md",))
    else:
        model = model.merge_and_unload()
        model.save_pretrained(folder)
    carry(parent, folder)
    if base_dtype == "bfloat16":
        frozen_update.save_update(folder, model, parent, learnt)
    return "float32"


def write_adapter_and_base(trained: Path, base: Path, folder: Path) -> None:
    """Link an adapter and, in `base/`, the model that it belongs to."""
    link_all(trained, folder, without=("README.md",))
    link_all(base, folder / "base")
    carry(base, folder)


def ship(
    name: str, spec: dict, base_dtype: str, options: Any, folders: tuple[Path, Path], measured: tuple, proof: dict
) -> dict:
    """Write what ships, in `save_precision`; returns its own proof.

    Args:
        folders: the merged model's, and the one to fill.
        measured: the logits to compare with, and their prompts.
        proof: of the merged model.

    Raises:
        UserError: the type that was asked for loses what was learnt.
    """
    import torch

    from posttrain.models import merge_proof

    (merged, shipped), (reference, prompts) = folders, measured
    asked = spec.get("save_precision", "auto")
    dtype = base_dtype if asked == "auto" else DTYPES[asked]
    if dtype != proof["dtype"]:
        write_as(dtype, spec, options, merged, shipped)
        found = reference.measure(merge_proof.logits(load_fp32(shipped), prompts)) | {"dtype": dtype}
        if METHODS[spec["method"]].mergeable:  # else the parent's weights are not changed
            found["kept"] = merge_proof.kept(options.parent, merged, getattr(torch, dtype))
        if merge_proof.keeps_the_update(found):
            say(
                f"{name}: model/ is in {dtype}, {found['relative']:.2g} of what training changed away from the trained model"
            )
            return found
        lost = (
            f"in {dtype} the model would be {found['relative']:.0%} of what training changed away from the trained one, and "
            f"its weights would keep {found.get('kept', 1):.0%} of the update"
        )
        if asked != "auto":
            raise UserError(
                "merge-failed",
                f"{name}",
                f"save_precision: {asked} loses what was learnt: {lost}",
                f"write save_precision: fp32, or auto, which takes {asked} only where it keeps the update",
            )
        say(f"{name}: model/ is in float32, as {lost}")
        for file in sorted(shipped.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
    link_all(merged, shipped, without=("update.safetensors",))
    return {key: value for key, value in proof.items() if key != "shipped"}


def write_as(dtype: str, spec: dict, options: Any, merged: Path, shipped: Path) -> None:
    """Write the merged model in another type; of an adapter kept apart, its base, linked where the parent ships it so."""
    import torch

    from posttrain.models import loading

    mergeable = METHODS[spec["method"]].mergeable
    source, target = (merged, shipped) if mergeable else (options.parent, shipped / "base")
    if not mergeable:
        for file in filter(Path.is_file, merged.iterdir()):
            link(file, shipped / file.name)
        if loading.dtype_of(options.shipped) == dtype:
            link_all(options.shipped, target)
            return
    loading.load(source, getattr(torch, dtype), device="cpu").save_pretrained(target)
    carry(source, target)


# ---- records


def provenance(options, spec: dict) -> dict:
    """What this model was made from, with what, where and in how long."""
    import platform
    import subprocess

    import torch

    run_folder = options.spec.parent
    code = Path(__file__).resolve().parent
    git = subprocess.run(["git", "-C", code, "rev-parse", "HEAD"], capture_output=True, text=True)
    results, data = run_folder.parent, spec["data"]["name"]
    reward = spec.get("reward", {})
    names = [reward[key]["name"] for key in ("from", "sequence", "reference") if key in reward]
    names += [spec["teacher"]["name"]] if "teacher" in spec else []
    manifests = [file for name in names for file in (f"{name}/merge.json", f"bases/{name}/base.json")]
    form = reference_form(
        spec["method"], spec["precision"], spec.get("peft_args", {}), options.manifest.name != "base.json"
    )
    with_logprobs = OBJECTIVES[spec["objective"]].reference == "logprobs"
    logprobs = [f"{data},max_length={spec['max_length']}{form}.parquet"] if with_logprobs else []
    return {
        "spec": sha256(options.spec),
        "settings": spec,
        "parent": {"name": spec["from"]["name"], "files": read_json(options.manifest)["files"]},
        "tokens": {split: sha256(options.tokens / f"{split}.parquet") for split in ("train", "validation")},
        "rows": hashes(results / "data" / data, "train.parquet"),
        "logprobs": hashes(options.parent.parent / "logprobs", *logprobs),
        "judges": hashes(results, *manifests),
        "trained": folder_hashes(run_folder / "trained"),
        "steps": hashes(run_folder, "train.jsonl"),
        "merge": hashes(run_folder, "merge.json"),
        "training": read_json(run_folder / "train.json"),
        "versions": versions(),
        "python": platform.python_version(),
        "code": {"commit": git.stdout.strip() or None, "scripts": code_hash(code)},
        "machine": {
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "command": f"snakemake results/{run_folder.name}/eval.json",
    }


if __name__ == "__main__":
    run(arguments(__doc__, spec=Path, parent=Path, shipped=Path, manifest=Path, tokens=Path, preflight=Path), main)
