"""`posttrain serve`: a model, or one of its exports, answers requests as OpenAI's API does."""

import argparse
import importlib.util
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from posttrain.cli import configuration, models
from posttrain.exports import EXPORTS, TRANSFORMERS_SERVERS
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError
from posttrain.workflow import paths

if TYPE_CHECKING:
    from posttrain.serving.app import Server
    from posttrain.serving.backends import Backend
    from posttrain.workflow.project import Project

LLAMA, LLAMA_SERVER = "llama.cpp", "llama-server"
LLAMA_CONTEXT = 8192  # tokens of an answer and its prompt that llama-server keeps room for, unless --context says so


class Plan(NamedTuple):
    """What is served."""

    name: str
    """of the model"""
    folder: Path
    """its weights, or those that the adapters belong to"""
    adapters: dict[str, Path]
    """folders by the names of their runs"""
    base_answers: bool
    """whether the folder's own model is served"""
    servers: tuple[str, ...]
    """programs that can serve it, the first choice first"""
    is_export: bool = False

    @property
    def names(self) -> list[str]:
        """Of all models, as requests have them."""
        return [self.name] * self.base_answers + list(self.adapters)


def run(options: argparse.Namespace) -> None:
    """Serve until Ctrl-C.

    Raises:
        UserError: the model is not there, not built or not proved; its server is not installed; the address is in use.
    """
    logging.disable(logging.WARNING)  # what libraries say of themselves
    warnings.simplefilter("ignore")
    key = os.environ.get("POSTTRAIN_API_KEY") or None
    project, _ = configuration.project(options)
    plan = planned(project, options)
    _check_installed(plan)
    from posttrain.serving.listening import bind, serve

    sock = bind(options.host, options.port, key)
    try:
        server = _server(project, plan, options.context, key)
        url = f"http://{options.host}:{sock.getsockname()[1]}/v1"
        serve(server, sock, lambda: print(announcement(url, plan.names, server.models, key is not None), flush=True))
    except KeyboardInterrupt:
        sys.exit(130)


# ---- what is served


def planned(project: "Project", options: argparse.Namespace) -> Plan:
    """What a command line asks for.

    Raises:
        UserError: an unknown name or kind, a reward model, something that is not built or not proved.
    """
    name = models.canonical(project, options.name)
    wanted = [models.canonical(project, adapter) for adapter in dict.fromkeys(options.adapters)]
    for one in [name, *wanted]:
        if project.is_reward(one):
            raise UserError(
                "unsupported-model", one, "it is a reward model or a classifier, which gives scores and no answers"
            )
    kind = options.export
    if kind is not None:
        models.check_kind(project, name, kind)
    for one in wanted:
        models.check_kind(project, one, "adapter")
    if kind and wanted:
        problem = "adapters are served over the trained model, and not over an export of it"
        raise UserError("unsupported-combination", "--export", problem, "leave out --export or --adapters")
    if wanted:
        folders = {one: _proved(project, one, "adapter") for one in wanted}
        folder = models.built(project, name, project.merged(name))
        return Plan(name, folder, folders, True, EXPORTS["adapter"].servers)
    if kind is None:
        return Plan(name, models.built(project, name, project.model(name)), {}, True, TRANSFORMERS_SERVERS)
    folder, servers = _proved(project, name, kind), EXPORTS[kind].servers
    if EXPORTS[kind].is_adapter:
        base = project.adapter_line(name)[0]
        return Plan(base, models.built(project, base, project.merged(base)), {name: folder}, False, servers)
    return Plan(name, folder, {}, True, servers, is_export=True)


def _proved(project: "Project", run: str, kind: str) -> Path:
    """The folder of an export.

    Raises:
        UserError: it is not there, or nothing proves that it is the trained model.
    """
    proof, folder = paths.proof(run, kind), Path(paths.export(run, kind))
    if not folder.exists() or not Path(proof).exists():
        is_there = "proved to be the trained model" if folder.exists() else "built yet"
        raise UserError("not-built", run, f"its export {kind} is not {is_there}", f"run: {project.command(proof)}")
    return folder


def _check_installed(plan: Plan) -> None:
    """Refuse to serve without the packages and programs that it needs.

    Raises:
        UserError: with how to install them.
    """
    absent = [name for name in ("starlette", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
    if absent:
        problem = f"serving needs the package {absent[0]}, which is not installed"
        raise UserError("missing-package", "", problem, "install it: pip install 'posttrain[serve]'")
    if LLAMA in plan.servers and shutil.which(LLAMA_SERVER) is None:
        problem = "a GGUF file is served by llama.cpp's llama-server, which is not on the PATH"
        raise UserError(
            "missing-package", plan.name, problem, "install llama.cpp (brew, conda-forge, or a release of it)"
        )


# ---- the program that serves it


def _server(project: "Project", plan: Plan, context: int | None, key: str | None) -> "Server":
    """The server of a plan, with the program behind it.

    Raises:
        UserError: no program that can serve it is installed, or a model cannot be loaded.
    """
    import transformers

    from posttrain.models import loading
    from posttrain.serving.app import Served, Server

    transformers.utils.logging.disable_progress_bar()
    # A GGUF file has no tokenizer that transformers reads; its run's is the one that it was made from.
    folder = Path(project.model(plan.name)) if LLAMA in plan.servers else plan.folder
    tokenizer = loading.tokenizer(folder)
    texts = _json(folder / "generation_config.json").get("stop_strings") or []
    texts = (texts,) if isinstance(texts, str) else tuple(texts)
    served = {name: Served(tokenizer, models.trained_with(project, name), texts) for name in plan.names}
    return Server(_backend(plan, context, folder, tokenizer), served, key)


def _backend(plan: Plan, context: int | None, folder: Path, tokenizer: Any) -> "Backend":
    """The first program that can serve a plan and is installed.

    Args:
        context: the most tokens of a prompt and its answer, if the user has said.
        folder: of the tokenizer and the model's configuration.
    """
    from posttrain.data import conversations, thoughts
    from posttrain.export import adapter_servers
    from posttrain.models.context import max_positions
    from posttrain.serving import child

    log = Path(paths.of("logs", f"serve/{plan.names[0]}.log"))
    config = _json(folder / "config.json")
    most = max_positions(config.get("text_config") or config)
    if LLAMA in plan.servers:
        (file,) = plan.folder.glob("*.gguf")
        most = min(context or LLAMA_CONTEXT, most or LLAMA_CONTEXT)
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        markers = [mark for mark in thoughts.MARKERS if mark in special]
        return child.Child(child.llama_server(LLAMA_SERVER, file, most, markers), most, log)
    if shutil.which("vllm") and _fits_vllm(plan):
        most = context or most or LLAMA_CONTEXT
        ranks = [_json(adapter / "adapter_config.json")["r"] for adapter in plan.adapters.values()]
        rank = min((rank for rank in adapter_servers.VLLM_RANKS if rank >= max(ranks, default=0)), default=0)
        stops = conversations.stops(folder, tokenizer)
        return child.Child(child.vllm(plan.folder, plan.name, most, stops, plan.adapters, rank), most, log)
    from posttrain.serving import in_process

    if plan.adapters:
        return in_process.load_adapters(plan.folder, plan.adapters, plan.name if plan.base_answers else None, context)
    return (in_process.load_export if plan.is_export else in_process.load)(plan.folder, context)


def _fits_vllm(plan: Plan) -> bool:
    """Whether vLLM takes a model and its adapters.

    Raises:
        UserError: an adapter belongs to another base.
    """
    from posttrain.models import adapters

    records = [adapters.check_base(folder, plan.folder) for folder in plan.adapters.values()]
    is_adapter = (plan.folder / "adapter_config.json").exists()
    return not is_adapter and all(record["servers"]["vllm"]["can"] for record in records)


def _json(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}


# ---- what is told


def announcement(url: str, names: list[str], served: dict, has_key: bool) -> str:
    """What a user needs to ask the models."""
    name = names[0]
    header = ' -H "Authorization: Bearer $POSTTRAIN_API_KEY"' if has_key else ""
    body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    key = 'os.environ["POSTTRAIN_API_KEY"]' if has_key else '"none"'
    lines = [f"serves {', '.join(names)} at {url}; Ctrl-C ends it"]
    for one in names:
        if served[one].system:
            lines.append(f"system prompt of {one}, unless a request has its own: {served[one].system}")
    lines += ["", f"curl {url}/chat/completions -H 'Content-Type: application/json'{header} \\", f"  -d '{body}'", ""]
    lines += [
        f"import {'os, ' * has_key}openai",
        f'client = openai.OpenAI(base_url="{url}", api_key={key})',
        f'answer = client.chat.completions.create(model="{name}", messages=[{{"role": "user", "content": "Hello"}}])',
        "print(answer.choices[0].message.content)",
    ]
    return "\n".join(lines)
