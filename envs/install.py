"""Install this repository with its pinned versions into the environment of the Python that runs this script.

    .venv/bin/python envs/install.py

uv installs in less than half of pip's time. It does not read pip's configuration, so its indexes, wheels and certificates are
set from `pip config list`. Where uv cannot be installed or fails, pip installs the same versions.
"""

import ast
import os
import subprocess
import sys

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
SECTIONS = ("global", "install", ":env:")  # a later one replaces an earlier one, as in pip


def main() -> None:
    """Install the package and its pinned dependencies: by uv, or by pip where uv cannot be had."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if subprocess.run([*pip, "-c", PINS, "uv"], **quiet).returncode == 0:
        if subprocess.run([*uv, *PACKAGES], env=uv_environment()).returncode == 0:
            return
        print("uv could not install the packages; pip tries", file=sys.stderr)
    sys.exit(subprocess.run([*pip, "-c", PINS, *PACKAGES]).returncode)


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
