"""What a licence forbids in whatever spelling, what a card says of it, and what a result inherits."""

from pathlib import Path

import pytest
import yaml
from packaging.licenses._spdx import LICENSES

from posttrain.data.licences import (
    HUB,
    KNOWN,
    card_fields,
    conditions,
    forbids,
    forbids_teaching,
    is_known,
    normalise,
    of_card,
    with_cards,
)
from posttrain.runtime import atomic

# ---- names and expressions

SPELLINGS = {
    "mit": "MIT",
    " MIT License ": "MIT",
    "apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "CC BY-NC 4.0": "CC-BY-NC-4.0",
    "cc_by_nc_sa_4.0": "CC-BY-NC-SA-4.0",
    "Llama3.1": "llama3.1",
    "openrail++": "openrail++",
    "deepfloyd-if-license": "deepfloyd-if-license",
    "GPL-2.0-or-later": "GPL-2.0-or-later",
    "gpl-2.0-only with classpath-exception-2.0": "GPL-2.0-only WITH Classpath-exception-2.0",
    "mit or gemma": "MIT OR gemma",
    "(mit OR  gpl-3.0) and\ncc0-1.0": "(MIT OR GPL-3.0) AND CC0-1.0",
    "apache-2.0-and-cc-by-nc-4.0": "Apache-2.0 AND CC-BY-NC-4.0",
}
NOT_KNOWN = """\
other
unknown
LicenseRef-ours
MIT OR
(MIT
()
or
mine, all mine
mit and mine
research and commercial use
see the LICENSE file
""".splitlines()


@pytest.mark.parametrize("written", SPELLINGS)
def test_a_known_licence_has_one_spelling(written):
    assert is_known(written)
    assert normalise(written) == SPELLINGS[written]
    assert normalise(normalise(written)) == normalise(written)


@pytest.mark.parametrize("written", NOT_KNOWN)
def test_what_is_not_known_stays_as_it_is_written_and_forbids_nothing(written):
    assert not is_known(written)
    assert normalise(written) == written
    assert not forbids(written, "commercial")


def test_every_name_of_spdx_and_of_the_hub_but_other_and_unknown_is_known():
    assert {name for name in [*LICENSES, *HUB] if not is_known(name)} == {"other", "unknown"}


FORBIDDEN = """\
CC BY-NC 4.0
cc-by-nc-sa-4.0
CC-BY-NC-ND-3.0-IGO
cc-by-nc
CC BY-NC4.0 International
Creative Commons Attribution Non Commercial
Non-commercial
noncommercial
no commercial use
not for commercial use
for non-commercial research
research-only
research use only
qwen-research
tongyi-qianwen-research
Mistral AI Research License
Mistral AI Non-Production License
MRL
mnpl
apple-amlr
h-research
intel-research
deepfloyd-if-license
fair-noncommercial-research-license
exaone
coqui-public-model-license
flux-1-dev-non-commercial-license
PolyForm-Noncommercial-1.0.0
NCGL-UK-2.0
LicenseRef-research
mit AND cc-by-nc-4.0
mit and (gemma and (qwen-research))
mit and mine-nc
(MIT OR cc-by-nc-4.0) AND cc-by-nc-4.0
cc-by-nc-4.0 OR qwen-research
apache-2.0-and-cc-by-nc-4.0
cc-by-nc-4.0-and-unknown
""".splitlines()
ALLOWED = """\
mit
NCSA
cc-by-4.0
cc-by-nd-4.0
llama2
llama3.1
gemma
grok2-community
apple-ascl
c-uda
qwen
lfm1.0
MIT OR CC-BY-NC-4.0
gpl
cc-by-nc-4.0 OR MIT AND Apache-2.0
MIT OR (cc-by-nc-4.0 AND gemma)
(cc-by-nc-4.0 OR mit) AND (qwen-research OR gemma)
""".splitlines()


@pytest.mark.parametrize("written", FORBIDDEN)
def test_what_may_not_be_sold_is_forbidden_commercially_and_for_research_allowed(written):
    assert forbids(written, "commercial")
    assert not forbids(written, "research")


@pytest.mark.parametrize("written", [*ALLOWED, None])
def test_what_may_be_sold_is_not_forbidden(written):
    assert not forbids(written, "commercial")


def test_the_names_that_forbid_are_these_and_no_others():
    others = {name for name in {*LICENSES, *KNOWN} if forbids(name, "commercial") and "nc" not in name.split("-")}
    assert others == set(
        "apple-amlr coqui-public-model-license deepfloyd-if-license exaone fair-noncommercial-research-license h-research "
        "intel-research mnpl mrl ncgl-uk-2.0 polyform-noncommercial-1.0.0 qwen-research tongyi-qianwen-research".split()
    )


# ---- cards

CARDS = {
    "license: mit": "mit",
    "language: [en]\nlicense: cc-by-nc-4.0\ntags:\n- math": "cc-by-nc-4.0",
    "license:\n- mit\n- cc-by-nc-4.0": "mit AND cc-by-nc-4.0",
    "license: other\nlicense_name: qwen-research\nlicense_link: LICENSE": "qwen-research",
    "license: [apache-2.0, other]\nlicense_name: mrl": "apache-2.0 AND mrl",
    "license: other": "other",
    "license: mit\nlicense_name: mine": "mit",
    "license: {a: b}": None,
    "license: 1.0": None,
    "license: []": None,
    "license: ''": None,
    "license: [mit": None,
    "released: 2023-02-31\nlicense: mit": None,
    "language: en": None,
    "- mit": None,
    "": None,
}


@pytest.mark.parametrize(("written", "name"), [
    ("Llama 3.1 Community License", "llama3.1"), ("llama-3.1", "llama3.1"), ("Llama 3.3 Community License Agreement", "llama3.3"),
    ("LLAMA 2 COMMUNITY LICENSE", "llama2"), ("Gemma Terms of Use", "gemma"), ("Qwen RESEARCH LICENSE AGREEMENT", "qwen-research"),
    ("grok2-community", "grok2-community"),
])  # fmt: skip
def test_names_that_the_licences_themselves_have_are_known(written, name):
    assert (is_known(written), normalise(written)) == (True, name)


CONDITIONS = {
    "llama3.1": "Built with Llama", "gemma": "prohibited uses", "cc-by-sa-4.0": "shared under the same licence", "openrail": "restrictions",
    "gpl-3.0": "copyleft", "cc-by-4.0": "authors are named", "odc-by": "authors are named", "mit AND cc-by-sa-4.0": "same licence",
}  # fmt: skip


@pytest.mark.parametrize("licence", CONDITIONS)
def test_what_else_a_licence_asks_is_told(licence):
    assert CONDITIONS[licence] in "; ".join(conditions(licence))


@pytest.mark.parametrize(
    "licence", ["mit", "apache-2.0", "cc0-1.0", "unknown", "other", None, "LicenseRef-by-me", "by the gpl"]
)
def test_nothing_is_said_of_what_asks_nothing_or_is_not_known(licence):
    assert conditions(licence) == []


@pytest.mark.parametrize("fields", CARDS)
def test_the_licence_is_the_one_of_the_cards_front_matter(tmp_path, fields):
    (tmp_path / "README.md").write_text(f"---\n{fields}\n---\n\n# Model\n\nlicense: gpl-3.0\n\n---\n")
    assert of_card(tmp_path) == CARDS[fields]


@pytest.mark.parametrize("text", ["", "# Model\n\n---\nlicense: mit\n---\n", "---\nlicense: mit\n", "license: mit\n"])
def test_a_card_without_front_matter_says_nothing(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert of_card(tmp_path) is None


OTHER_SYSTEMS = [
    b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\n# M",
    b"---\nlicense: mit\nby: \xe9\n--- \n",
    b"---\nlicense: mit\n---",
]


@pytest.mark.parametrize("raw", OTHER_SYSTEMS)
def test_a_card_of_another_system_is_read(tmp_path, raw):
    (tmp_path / "README.md").write_bytes(raw)
    assert of_card(tmp_path) == "mit"


def test_no_card_says_nothing(tmp_path):
    assert of_card(tmp_path) is None
    assert of_card(tmp_path / "no folder") is None


def test_what_the_configuration_leaves_open_is_what_the_card_said_when_the_part_was_built(in_folder):
    atomic.write_json(Path("results/bases/carded/base.json"), {"licence": "gemma"})
    atomic.write_json(Path("results/bases/older/base.json"), {"files": {}})
    atomic.write_json(Path("results/data/pairs/data.json"), {"licence": "cc-by-nc-4.0"})
    atomic.write_json(Path("results/data/said/data.json"), {"licence": "cc-by-nc-4.0"})
    parts = {
        "bases.carded": None, "bases.older": None, "bases.unbuilt": None, "datasets.pairs": None, "datasets.said": "mit",
    }  # fmt: skip
    assert with_cards(parts) == {
        "bases.carded": "gemma", "bases.older": None, "bases.unbuilt": None,
        "datasets.pairs": "cc-by-nc-4.0", "datasets.said": "mit",
    }  # fmt: skip


# ---- what a result inherits

INHERITED = {
    ("apache-2.0", "Apache 2.0"): {"license": "apache-2.0"},
    ("apache-2.0", "mit"): {"license": "other", "license_name": "apache-2.0-and-mit"},
    ("mit", "apache-2.0"): {"license": "other", "license_name": "apache-2.0-and-mit"},
    ("apache-2.0", None): {"license": "other", "license_name": "apache-2.0-and-unknown"},
    (None, None): {"license": "other", "license_name": "unknown"},
    ("other", "other"): {"license": "other", "license_name": "other"},
    ("GPL-3.0-only", "gpl-3.0-only"): {"license": "other", "license_name": "gpl-3.0-only"},  # none of the hub's list
    ("qwen-research", "mit"): {"license": "other", "license_name": "mit-and-qwen-research"},
    ("Ours: see (FILE)!", "mit"): {"license": "other", "license_name": "mit-and-ours-see-file-"},
}


@pytest.mark.parametrize("licences", INHERITED)
def test_the_front_matter_names_a_licence_only_where_all_parts_share_it(licences):
    assert card_fields(dict(zip(("bases.base", "datasets.chats"), licences, strict=True))) == INHERITED[licences]


@pytest.mark.parametrize(
    ("licences", "known", "forbidden"),
    [
        (("apache-2.0", "mit"), True, False),
        (("apache-2.0", "CC BY-NC 4.0"), True, True),
        (("gemma", "cc-by-nc-4.0", None), False, True),
        (("llama3.1", None), False, False),
    ],
)
def test_the_next_project_reads_in_the_card_of_a_result_what_it_inherits(tmp_path, licences, known, forbidden):
    fields = yaml.safe_dump(card_fields({f"datasets.part{n}": licence for n, licence in enumerate(licences)}))
    (tmp_path / "README.md").write_text(f"---\n{fields}---\n")
    licence = of_card(tmp_path)
    assert (is_known(licence), forbids(licence, "commercial")) == (known, forbidden)


@pytest.mark.parametrize(
    ("teacher", "student", "forbidden"),
    [
        ("llama3", "apache-2.0", True),
        ("Llama 3 Community License Agreement", None, True),
        ("llama3", "Llama3", False),  # a model that is made of it
        ("llama3.1", "apache-2.0", False),
        ("mit OR llama2", "mit", False),
        ("mit AND llama2", "mit", True),
        ("apache-2.0", None, False),
        (None, None, False),
    ],
)
def test_some_licences_forbid_to_train_others_on_what_a_model_says(teacher, student, forbidden):
    assert forbids_teaching(teacher, student) == forbidden
