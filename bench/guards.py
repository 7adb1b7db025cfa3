"""Take out one guard at a time, and see that the test of its promise fails.

    python bench/guards.py                     # all of them: about 10 minutes
    python bench/guards.py checkpoint secret   # those with these words in their promise

Each line of GUARDS is one guard, as the text that it is in the source and the text without it. The repository is copied, the guard taken
out of the copy, and the tests that docs/reliability.md and docs/security.md name for its promise are run. They must fail, and pass
with everything in place. Exit status 1 where a guard was not missed.
"""

# ruff: noqa: E501  (a guard is a line)

import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = "scripts/posttrain"
PATIENCE = 200  # seconds for the tests of a guard, which need a few to 40


class Guard(NamedTuple):
    """What keeps a promise."""

    promise: str
    file: str
    here: str
    gone: str
    test: str


GUARDS = [
    Guard("a judge's key goes nowhere but to its endpoint", f"{PACKAGE}/evaluation/endpoint_judge.py", '"allow_redirects": False', '"allow_redirects": True', "tests/unit/evaluation/test_judging.py -k redirection"),
    Guard("no pair is judged twice", f"{PACKAGE}/evaluation/judging.py", "        _append(file, name, reply)\n", "", "tests/unit/evaluation/test_judging.py -k what_was_judged"),
    Guard("an answer cannot end a judge's question", f"{PACKAGE}/evaluation/local_judge.py", 'text.replace(token, f"{token[0]} {token[1:]}")', "text", "tests/unit/evaluation/test_local_judge.py -k control_token"),
    Guard("a spoilt checkpoint is noticed", f"{PACKAGE}/training/checkpoints.py", "return file.exists() and file.read_bytes() == _listed(checkpoint).encode()", "return file.exists()", "tests/unit/training/test_checkpoints.py -k every_file_of_a_checkpoint_spoilt"),
    Guard("a checkpoint without a list does not count", f"{PACKAGE}/training/checkpoints.py", "        if is_whole(checkpoint):", "        if True:", "tests/unit/training/test_checkpoints.py -k otherwise_than_it_was_written"),
    Guard("a checkpoint counts when it is on the disk", f"{PACKAGE}/training/checkpoints.py", "        list(synced)\n    _sync(temporary)", "        list(synced)", "tests/unit/training/test_checkpoints.py -k on_the_disk_before_the_list"),
    Guard("there is one checkpoint before the newest", f"{PACKAGE}/training/checkpoints.py", "KEPT = 2", "KEPT = 1", "tests/unit/training/test_checkpoints.py -k sealing_keeps_two"),
    Guard("a spoilt best step is noticed", f"{PACKAGE}/training/keeping.py", "        if step is None or result(folder, step):", "        if True:", "tests/unit/training/test_held_out.py -k best_step_is_spoilt"),
    Guard("a best step stays while a checkpoint counts on it", f"{PACKAGE}/training/keeping.py", "    needed = {best, *(_best(checkpoint, planned) for checkpoint in folder.glob(\"checkpoint-*\"))}", "    needed = {best}", "tests/unit/training/test_held_out.py -k best_step_is_spoilt"),
    Guard("measuring moves no generator", f"{PACKAGE}/training/held_out.py", "        with torch.random.fork_rng(), torch.no_grad():", "        with torch.no_grad():", "tests/unit/training/test_held_out.py -k takes_no_other_step"),
    Guard("a changed setting never resumes", f"{PACKAGE}/training/inputs.py", 'parts = [json.dumps(_training_settings(spec), sort_keys=True), *_arithmetic(spec)]', "parts = [*_arithmetic(spec)]", "tests/unit/training/test_inputs.py -k work_folder_is_keyed"),
    Guard("a resumed training counts its tokens on", f"{PACKAGE}/training/loop.py", "        count_tokens_from(trainer, checkpoint)", "        pass", "tests/unit/training/test_checkpoints.py -k newest_checkpoint_spoilt"),
    Guard("the same spec gives the same bits", f"{PACKAGE}/training/results.py", "        sort_sets(config)", "        pass", "tests/unit/training/test_checkpoints.py -k saved_in_one_order"),
    Guard("out of memory, the micro-batch halves", f"{PACKAGE}/models/out_of_memory.py", "    return isinstance(error, MemoryError) or (", "    return False and (", "tests/unit/training/test_checkpoints.py -k out_of_memory_at_once"),
    Guard("a kill for memory is seen", f"{PACKAGE}/models/out_of_memory.py", "    return bool(shared) and now[shared[0]] > before[shared[0]]", "    return False", "tests/unit/training/test_checkpoints.py -k after_a_kill_for_memory"),
    Guard("a loss that is none stops", f"{PACKAGE}/training/callbacks.py", "        if not wrong:\n            return", "        if True:\n            return", "tests/unit/training/test_callbacks.py -k not_finite_stops"),
    Guard("weights that are none are not saved", f"{PACKAGE}/training/callbacks.py", "if not wrong and is_saved and not is_finite(model):", "if False:", "tests/unit/training/test_callbacks.py -k not_finite_are_not_saved"),
    Guard("a full disk is one sentence", f"{PACKAGE}/runtime/script.py", "if fault is None or isinstance(error, UserError):", "if True:", "tests/unit/runtime/test_script.py -k 'full_disk or read_only_disk'"),
    Guard("no half file", f"{PACKAGE}/runtime/atomic.py", 'beside = path.with_name(f"{own}{os.getpid()}")', "beside = path", "tests/unit/runtime/test_script.py -k failed_file"),
    Guard("no half folder", f"{PACKAGE}/runtime/atomic.py", "            path.rename(old)  # so", "            shutil.rmtree(path)  # so", "tests/unit/runtime/test_script.py -k away_for_one_rename"),
    Guard("a signal saves", f"{PACKAGE}/training/callbacks.py", "            on_signals(self._on_signal)", "            pass", "tests/unit/training/test_callbacks.py -k signal_saves_and_stops"),
    Guard("a signal leaves no half file", f"{PACKAGE}/runtime/script.py", "    on_signals(end_at_once)\n", "", "tests/unit/runtime/test_script.py -k signal_ends_a_stage"),
    Guard("two at once: one stage", f"{PACKAGE}/runtime/script.py", "            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)", "            pass", "tests/unit/runtime/test_script.py -k second_process_waits"),
    Guard("two at once: one command", f"{PACKAGE}/workflow/build_lock.py", "        if other is None:", "        if True:", "tests/unit/workflow/test_build_lock.py -k second_waits"),
    Guard("a dead command is not waited for", f"{PACKAGE}/workflow/build_lock.py", "fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)", "return True", "tests/unit/workflow/test_build_lock.py -k killed"),
    Guard("MLflow away stops nothing", f"{PACKAGE}/training/mlflow_tracking.py", "            traceback.print_exc()  # to the log", "            raise", "tests/unit/training/test_mlflow_tracking.py -k server_that_is_down"),
    Guard("MLflow is waited for seconds", f"{PACKAGE}/training/mlflow_tracking.py", "        os.environ.setdefault(name, value)", "        pass", "tests/unit/training/test_mlflow_tracking.py -k patience_of_minutes"),
    Guard("MLflow gets no step twice", f"{PACKAGE}/training/mlflow_tracking.py", 'if line["step"] > self.last_step]', "]", "tests/unit/training/test_mlflow_tracking.py -k logs_no_step_twice"),
    Guard("a card names no folder", f"{PACKAGE}/reports/model_card.py", 'return printable(FOLDERS.sub("", text))', "return printable(text)", "tests/unit/reports/test_run_card.py -k name_no_folder"),
    Guard("nothing edited is published", f"{PACKAGE}/provenance/publishing.py", "    _check_verified(project, run)\n", "", "tests/unit/provenance/test_publishing.py -k not_as_it_was_built"),
    Guard("nothing unproved is published", f"{PACKAGE}/provenance/publishing.py", "needed += [paths.proof(run, kind), paths.export(run, kind)]", "needed += [paths.export(run, kind)]", "tests/unit/provenance/test_publishing.py -k without_a_proof"),
    Guard("a closed part stays private", f"{PACKAGE}/provenance/publishing.py", "    if upload.closed and not private:", "    if False:", "tests/unit/provenance/test_publishing.py -k keeps_for_oneself"),
    Guard("publishing gives up", f"{PACKAGE}/provenance/publishing.py", "            if attempt == TRIES:", "            if attempt == 50:", "tests/unit/provenance/test_publishing.py -k 500_always"),
    Guard("an edited file is named", f"{PACKAGE}/provenance/verify.py", 'for part in ("trained", "merged", "model"):', 'for part in ("merged", "model"):', "tests/unit/provenance/test_verify.py -k edited_file_is_named"),
    Guard("an edited number is named", f"{PACKAGE}/provenance/verify.py", 'if values["seal"] != records.seal(values) else []', "if False else []", "tests/unit/provenance/test_verify.py -k edited_number"),
    Guard("rebuild-check sees a bit", f"{PACKAGE}/provenance/rebuild.py", "    elif sha256_of(old) != sha256_of(new):", "    elif False:", "tests/unit/provenance/test_rebuild.py -k only_bits"),
    Guard("a model's own code is not run", f"{PACKAGE}/models/base_inspection.py", '["auto_map"] * ("auto_map" in values) + kernels', "kernels", "tests/security/test_bases.py -k code_of_a_models_own"),
    Guard("no pickle is loaded", f"{PACKAGE}/models/base_inspection.py", "    if not weights:", "    if False:", "tests/security/test_bases.py -k a_pickle_is_refused"),
    Guard("a template ends in time", f"{PACKAGE}/runtime/resource_limits.py", "                signal.setitimer(signal.ITIMER_PROF, seconds, 1)", "                pass", "tests/security/test_templates.py -k does_harm"),
    Guard("a template has its memory", f"{PACKAGE}/runtime/resource_limits.py", "    resource.setrlimit(resource.RLIMIT_AS, (most, hard))", "    pass", "tests/security/test_templates.py -k does_harm"),
    Guard("a wheel has its size", f"{PACKAGE}/models/base_inspection.py", "if size > max(SMALL, PACKED * packed) or", "if", "tests/security/test_bases.py -k unpacks_to_much_more"),
    Guard("a wheel has its hash", "scripts/make_base.py", 'if spec.get("sha256") not in (None, sha256(wheel)):', "if False:", "tests/security/test_bases.py -k another_hash"),
    Guard("no value reaches a shell unquoted", "rules/dpo.smk", "--parent {input.model:q}", "--parent {input.model}", "tests/security/test_shell.py -k every_value"),
    Guard("a configuration is no program", f"{PACKAGE}/config/plain_values.py", 'if isinstance(values, dict) and "__use_yte__" in values:', "if False:", "tests/security/test_shell.py -k configuration_that_is_a_program"),
    Guard("a secret in a configuration is refused", f"{PACKAGE}/config/plain_values.py", "    if SECRET.search(value):", "    if False:", "tests/security/test_secrets.py -k secret_in_the_configuration"),
    Guard("a message has no password", f"{PACKAGE}/runtime/errors.py", 'PASSWORD.sub("***@", str(text))', "str(text)", "tests/security/test_secrets.py -k message_has_no_password"),
    Guard("pages escape", f"{PACKAGE}/reports/html.py", "autoescape=True", "autoescape=False", "tests/security/test_pages.py -k escapes_every"),
    Guard("a pipe is not waited for", f"{PACKAGE}/data/files.py", "    return os.path.isfile(path)", "    return os.path.exists(path)", "tests/security/test_data.py -k a_pipe_and_a_device"),
    Guard("an image starts no program", f"{PACKAGE}/data/rows.py", "Image.open(file, formats=IMAGES)", "Image.open(file)", "tests/security/test_data.py -k ghostscript"),
    Guard("any configuration ends in a sentence", f"{PACKAGE}/config/plain_values.py", "        if not isinstance(rows, dict):", "        if False:", "tests/security/test_fuzz.py"),
    Guard("a dependency names its licence", "tests/unit/house/test_constraints.py", '"conda-inject": "https://github.com/koesterlab/conda-inject",', "", "tests/unit/house/test_constraints.py -k every_pinned"),
]  # fmt: skip


def main() -> int:
    words = sys.argv[1:]
    guards = [guard for guard in GUARDS if not words or any(word in guard.promise for word in words)]
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "posttrain"
        names = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
        for name in names.splitlines():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, copy / name)
        unmissed = [guard for guard in guards if not is_missed(guard, copy)]
    print(f"{len(guards)} guards taken out one at a time, {len(unmissed)} of them unnoticed")
    return 1 if unmissed else 0


def is_missed(guard: Guard, copy: Path) -> bool:
    """Whether the guard's test passes with it and fails without it."""
    file = copy / guard.file
    text = file.read_text()
    if text.count(guard.here) != 1:
        sys.exit(
            f"{guard.file}: it has the text of '{guard.promise}' {text.count(guard.here)} times; write it anew in GUARDS"
        )
    passes, why = tests(guard, copy)
    if not passes:
        sys.exit(f"{guard.test}: does not pass as it is:\n{why}")
    file.write_text(text.replace(guard.here, guard.gone))
    passes, why = tests(guard, copy)
    file.write_text(text)
    print(f"{'NOT MISSED' if passes else 'missed'}: {guard.promise} ({guard.test}): {why.splitlines()[-1]}", flush=True)
    return not passes


def tests(guard: Guard, copy: Path) -> tuple[bool, str]:
    """Whether the guard's tests pass in the copy, and the end of what pytest says."""
    line = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *shlex.split(guard.test)]
    try:
        run = subprocess.run(line, cwd=copy, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:  # a template that nothing stops
        return False, f"not ended after {PATIENCE} s"
    said = run.stdout.strip()[-2000:]
    if run.returncode in (4, 5):  # no such file, no such test
        sys.exit(f"{shlex.join(line)}: {said}{run.stderr}")
    return run.returncode == 0, said


if __name__ == "__main__":
    sys.exit(main())
