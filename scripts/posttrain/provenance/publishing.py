"""Publish a run on the Hugging Face Hub: its model or one of its exports, with its card, in one commit.

Nothing is sent of a run that is not as it was built, that has no proof, or whose parts may not be given away. One commit takes all
files, so that nobody downloads half of a model; weights are sent before it, and a second try sends only those that are missing.
"""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from posttrain import exports
from posttrain.data.licences import forbids, forbids_sharing
from posttrain.provenance.verify import verify
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import visible_files
from posttrain.workflow import card_inputs, paths
from posttrain.workflow.project import Project

CARD = "README.md"
TRIES, WAIT = 3, 2.0  # of the whole, and seconds after the first; each request of an upload is tried six times besides
PATIENCE = 60.0  # seconds for an answer; huggingface_hub itself waits for ever
# Files of a repository that belong to no model in particular.
ANYBODYS = (CARD, ".gitattributes", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE")
SMALL = 1_000_000  # bytes of a file that is searched for places of this machine


class Upload(NamedTuple):
    """What is sent."""

    run: str
    repository: str
    files: dict[str, Path]
    """their places in the repository, without the card"""
    card: str
    closed: list[str]
    """parts whose licences let nobody else have what is made from them"""

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file, the card's too."""
        sizes = {name: file.stat().st_size for name, file in self.files.items()}
        return sizes | {CARD: len(self.card.encode())}


# ---- what is sent


def prepare(project: Project, run: str, repository: str, kind: str | None = None) -> Upload:
    """Gather what is to be sent, or refuse it; nothing is sent and nothing is written.

    Args:
        project: the configuration.
        run: its canonical name.
        repository: `ORG/NAME`.
        kind: of the export to send; None for `model/`.

    Raises:
        UserError: a malformed repository, a run that is not built, not proved or not as it was built, a licence that forbids the use.
    """
    _check_repository(repository)
    folder = Path(_folder(project, run, kind))
    _check_verified(project, run)
    from posttrain.reports import card_facts, front_matter, run_card

    facts = card_facts.collect(run, json.loads(card_inputs.context(project, run)))
    forbidden = [
        f"{part} ({licence})" for part, licence in facts["found"].items() if forbids(licence, project.config.use)
    ]
    if forbidden:
        problem = f"use: {project.config.use} is forbidden by the licence of {' and '.join(forbidden)}"
        raise UserError("licence-forbids", run, problem, "replace it, or write use: research")
    card = run_card.card(facts, kind, repository)
    if faults := front_matter.faults(card):
        raise UserError("invalid-card", run, f"the hub would not take its front matter: {'; '.join(faults)}")
    files = {str(file.relative_to(folder)): file for file in visible_files(folder) if file.name != CARD}
    _check_places(run, files)
    closed = [f"{part} ({licence})" for part, licence in facts["found"].items() if forbids_sharing(licence)]
    return Upload(run, repository, files, card, closed)


def _check_repository(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    with contextlib.suppress(HFValidationError):
        validate_repo_id(repository)
        if repository.count("/") == 1:
            return
    hint = "write ORG/NAME: letters, digits, '-', '_' and '.', at most 96 of them"
    raise UserError("invalid-repository", repository, "this is not the name of a repository on the hub", hint)


def _folder(project: Project, run: str, kind: str | None) -> str:
    """The folder to send, which has a proof.

    Raises:
        UserError: the folder, its proof or the run's evaluation is not there.
    """
    needed = [paths.evaluation(run), paths.of(run, "merge.json"), paths.of(run, "model")]
    if kind is not None:
        table = project.run(run).run
        exports.check(f"{run}: {kind}", kind, table.method, table.objective)
        needed += [paths.proof(run, kind), paths.export(run, kind)]
    for file in needed:
        if not Path(file).exists():
            what = "its proof is missing" if file.endswith(".json") and "eval" not in file else "it is not built yet"
            raise UserError("not-built", run, f"{what} ({file})", f"run: {project.command(file)}")
    return needed[-1]


def _check_verified(project: Project, run: str) -> None:
    """Refuse a run that is not as it was built, or that is made from something that is not."""
    damaged = [finding for finding in verify(project, [run]) if finding.wrong]
    if damaged:
        problem = "; ".join(f"{finding.name}: {', '.join(finding.wrong)}" for finding in damaged)
        raise UserError("changed-file", run, f"it is not as it was built: {problem}", f"see posttrain verify {run}")


def _check_places(run: str, files: dict[str, Path]) -> None:
    """Refuse a file that says where on this machine something lies."""
    here = json.dumps(str(Path.cwd()))[1:-1]
    for name, file in files.items():
        text = file.suffix in (".json", ".jinja", ".md", ".txt") and file.stat().st_size < SMALL
        if text and here in file.read_text(encoding="utf-8", errors="replace"):
            problem = "it says where on this machine the project lies, which would be published"
            raise UserError(
                "local-path", f"{run}: {name}", problem, "build it again in this version, or remove the path"
            )


# ---- sending it


def send(upload: Upload, private: bool = False, branch: str | None = None, replace: bool = False) -> str:
    """Send everything in one commit; returns the commit's address.

    Args:
        private: make the repository a private one where it does not exist yet.
        branch: to commit to, made where it is not there; None for the main one.
        replace: remove what else the repository has.

    Raises:
        UserError: no login; the hub refuses it or cannot be reached; the repository has another model's files.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        problem = "nobody is logged in to the hub"
        raise UserError("no-login", "", problem, "set HF_TOKEN to a token that may write, or run hf auth login")
    if upload.closed and not private:
        problem = f"the licence of {' and '.join(upload.closed)} forbids to give away what is made from it"
        raise UserError(
            "licence-forbids", upload.run, problem, "replace that part, or publish with --private for yourself"
        )
    api = HfApi()
    return _with_patience(upload, lambda: _send(api, upload, private, branch, replace))


def _send(api: Any, upload: Upload, private: bool, branch: str | None, replace: bool) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(upload.repository, timeout=PATIENCE)
        if private and not info.private:
            raise UserError(
                "hub-refused", upload.repository, "it is there already, and public", "publish without --private"
            )
    except RepositoryNotFoundError:
        api.create_repo(upload.repository, private=private, exist_ok=True)
    if branch:
        api.create_branch(upload.repository, branch=branch, exist_ok=True)
    there = set(api.list_repo_files(upload.repository, revision=branch))
    others = sorted(there - upload.files.keys() - {*ANYBODYS})
    if others and not replace:
        some = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        problem = f"it has files that do not belong to this model: {some}"
        raise UserError(
            "other-content", upload.repository, problem, "publish under another name, or remove them with --replace"
        )
    operations = [CommitOperationAdd(name, file) for name, file in upload.files.items()]
    operations.append(CommitOperationAdd(CARD, upload.card.encode()))
    operations += [CommitOperationDelete(name, is_folder=False) for name in others]
    message = f"{upload.run}, made with posttrain"
    return api.create_commit(upload.repository, operations, commit_message=message, revision=branch).commit_url


def _with_patience(upload: Upload, action: Callable[[], str]) -> str:
    """Do it, again some times where the hub or the network fails, and tell a failure in one sentence."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import get_session

    for attempt in range(1, TRIES + 1):
        get_session().timeout = PATIENCE
        try:
            return action()
        except OfflineModeIsEnabled:
            problem = "HF_HUB_OFFLINE is set, so nothing can be sent"
            raise UserError("unreachable-server", upload.repository, problem, "unset it") from None
        except (HfHubHTTPError, httpx2.HTTPError, RuntimeError, ValueError) as error:
            # Of the upload of a file, what happened is the cause of a RuntimeError; a ValueError is the hub's word on the card.
            cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
            refused = _refused(upload.repository, cause)
            if refused:
                raise refused from None
            if attempt == TRIES:
                what, tries = _line(cause), f"after {TRIES} tries"
                hint = "try again later: what has arrived is not sent again"
                raise UserError(
                    "unreachable-server", upload.repository, f"the hub failed {tries} ({what})", hint
                ) from None
        time.sleep(WAIT * 2 ** (attempt - 1))
    raise AssertionError


def _refused(repository: str, error: BaseException) -> UserError | None:
    """What to say of an error that another try would not mend; None of one that it might."""
    import httpx2

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        if isinstance(error, httpx2.TransportError):
            return None
        return UserError("hub-refused", repository, f"the hub refused it: {_line(error)}")
    if status >= 500 or status in (408, 429):
        return None
    hints = {
        401: ("the hub does not know this token", "log in again: hf auth login, or set HF_TOKEN"),
        403: ("this token may not write there", "use a token with write access to that organisation"),
        404: ("the hub knows no such organisation, repository or branch", "check the name"),
        409: ("somebody else changed it at the same time", "publish again"),
    }
    problem, hint = hints.get(status, (f"the hub answered {status}: {_line(error)}", ""))
    return UserError("hub-refused", repository, problem, hint)


def _line(error: BaseException) -> str:
    """What an error says, on one line."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = getattr(error, "server_message", None) or str(error) or type(error).__name__
    text = " ".join(said.split())
    return f"{status}: {text[:200]}" if status and getattr(error, "server_message", None) else text[:200]
