"""Every pinned package says where it comes from and under which licence; one that says neither is noticed here."""

import re
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from conftest import REPOSITORY

# Packages whose metadata names no page, looked at by hand, with the place where their source is.
REVIEWED = {
    "conda-inject": "https://github.com/koesterlab/conda-inject",
    "jiwer": "https://github.com/jitsi/jiwer",
    "snakemake-interface-common": "https://github.com/snakemake/snakemake-interface-common",
    "snakemake-interface-executor-plugins": "https://github.com/snakemake/snakemake-interface-executor-plugins",
    "snakemake-interface-logger-plugins": "https://github.com/snakemake/snakemake-interface-logger-plugins",
    "snakemake-interface-report-plugins": "https://github.com/snakemake/snakemake-interface-report-plugins",
    "snakemake-interface-scheduler-plugins": "https://github.com/snakemake/snakemake-interface-scheduler-plugins",
}

# Optional packages whose files name no licence: look at their source before you ship them.
NO_LICENCE = ("pycocoevalcap",)


def normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lacks(package: Distribution) -> list[str]:
    """What a package does not tell of `source` and `licence`."""
    about = package.metadata
    pages = [about.get("Home-page"), about.get("Download-URL"), *about.get_all("Project-URL", [])]
    said = [about.get("License-Expression"), about.get("License")]
    said += [name for name in about.get_all("Classifier", []) if name.startswith("License ::")]
    said += [file.name for file in package.files or [] if re.match(r"(?i)(licen[cs]e|copying)", file.name)]
    source = any("://" in page for page in pages if page)
    licence = any(text.strip() not in ("", "UNKNOWN") for text in said if text)
    return [*([] if source else ["source"]), *([] if licence else ["licence"])]


@pytest.fixture(scope="module")
def pinned() -> dict[str, Distribution]:
    """The packages of envs/constraints.txt that are installed."""
    lines = (REPOSITORY / "envs/constraints.txt").read_text().splitlines()
    names = {normal(line.partition("==")[0]) for line in lines if "==" in line and not line.startswith("#")}
    return {normal(package.name): package for package in distributions() if normal(package.name) in names}


def test_every_pinned_package_has_a_source_and_a_licence(pinned):
    assert len(pinned) > 100
    known = {key: ["source"] for key in REVIEWED} | {key: ["licence"] for key in NO_LICENCE}
    found = {name: lacks(package) for name, package in pinned.items() if lacks(package)}
    assert found == {name: lack for name, lack in known.items() if name in pinned}


def package(folder: Path, metadata: str, *files: str) -> Distribution:
    info = folder / "mystery-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mystery\nVersion: 1.0\n{metadata}")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    return Distribution.at(info)


@pytest.mark.parametrize(
    ("metadata", "files", "lacking"),
    [
        ("", (), ["source", "licence"]),
        ("Home-page: UNKNOWN\nLicense: UNKNOWN\n", ("mystery/__init__.py",), ["source", "licence"]),
        ("Home-page: https://example.org\n", (), ["licence"]),
        ("License-Expression: MIT\n", (), ["source"]),
        ("Project-URL: Source, https://example.org\nClassifier: License :: OSI Approved\n", (), []),
        ("Home-page: https://example.org\n", ("mystery-1.0.dist-info/LICENSE.txt",), []),
    ],
)
def test_a_package_that_tells_nothing_is_noticed(tmp_path, metadata, files, lacking):
    assert lacks(package(tmp_path, metadata, *files)) == lacking
