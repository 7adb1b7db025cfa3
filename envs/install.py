"""Install this repository with its pinned versions into the environment of the Python that runs this script.

    .venv/bin/python envs/install.py          # all of it
    .venv/bin/python envs/install.py --node   # only llama.cpp for node, with which exports as GGUF are tried

uv installs in less than half of pip's time. It does not read pip's configuration, so its indexes, wheels and certificates are
set from `pip config list`. Where uv cannot be installed or fails, pip installs the same versions.
"""

import ast
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

PINS = "envs/constraints.txt"
PACKAGES = ["-e", ".[dev]"]
# pip's option -> uv's environment variable, and what separates several values there.
SETTINGS = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "no-index": ("UV_NO_INDEX", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "proxy": ("ALL_PROXY", " "),
}
NODE = "envs/node/package.json"
NODE_SECONDS = 600  # for npm, which may wait for a registry that is not there
# Names of llama.cpp's compiled libraries, each a package of node-llama-cpp for one kind of machine.
LIBRARIES = {
    ("Linux", "x86_64"): "linux-x64",
    ("Linux", "aarch64"): "linux-arm64",
    ("Darwin", "arm64"): "mac-arm64-metal",
    ("Darwin", "x86_64"): "mac-x64",
}
SECTIONS = ("global", "install", ":env:")  # a later one replaces an earlier one, as in pip


def main() -> None:
    """Install the package and its pinned dependencies, by uv or by pip where uv cannot be had; then what npm has."""
    if "--node" not in sys.argv[1:]:
        python_packages()
    problem = node_packages(Path(sys.prefix, "lib/posttrain-node"))
    if problem:
        print(f"llama.cpp for node is not installed, so exports as GGUF cannot be tried: {problem}", file=sys.stderr)


def python_packages() -> None:
    """Install with uv, or else with pip; ends the program where neither can."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if subprocess.run([*pip, "-c", PINS, "uv"], **quiet).returncode == 0:
        if subprocess.run([*uv, *PACKAGES], env=uv_environment()).returncode == 0:
            return
        print("uv could not install the packages; pip tries", file=sys.stderr)
    if status := subprocess.run([*pip, "-c", PINS, *PACKAGES]).returncode:
        sys.exit(status)


def node_packages(folder: Path) -> str | None:
    """Install llama.cpp for node in `folder`, without the libraries for GPUs that come with it; returns why it is not there."""
    version = json.loads(Path(NODE).read_text())["dependencies"]["node-llama-cpp"]
    library = LIBRARIES.get((platform.system(), platform.machine()))
    if library is None:
        return f"there is none for {platform.system()} on {platform.machine()}"
    names = ["node-llama-cpp", f"@node-llama-cpp/{library}"]
    found = [folder / "node_modules" / name / "package.json" for name in names]
    if all(file.exists() and json.loads(file.read_text())["version"] == version for file in found):
        return None
    if shutil.which("npm") is None:
        return "there is no npm; install node 20 or newer, then run `python envs/install.py --node`"
    folder.mkdir(parents=True, exist_ok=True)
    options = [
        "--omit=optional",
        "--ignore-scripts",
        "--no-package-lock",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ]
    patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    command = ["npm", "install", "--prefix", folder, *options, *patience, *(f"{name}@{version}" for name in names)]
    try:
        ran = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=NODE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"npm took more than {NODE_SECONDS} seconds"
    if ran.returncode:
        return "npm failed: " + (ran.stderr.strip().splitlines() or ["without a word"])[0]
    return None


def uv_environment() -> dict[str, str]:
    """The environment for uv: pip's configuration, pip's choice among indexes, and compiled modules; the user's UV_* win."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    options = dict(line.split("=", 1) for line in listed.stdout.splitlines())
    settings = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_COMPILE_BYTECODE": "1"}
    for section in SECTIONS:
        for option, (name, separator) in SETTINGS.items():
            if value := options.get(f"{section}.{option}"):
                settings[name] = separator.join(ast.literal_eval(value).split())
    settings["UV_CONSTRAINT"] = " ".join([PINS, *settings.get("UV_CONSTRAINT", "").split()])
    return settings | os.environ


if __name__ == "__main__":
    main()
