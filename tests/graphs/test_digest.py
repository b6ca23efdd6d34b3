from __future__ import annotations

import pytest

from promptd.errors import InvalidArgument
from promptd.graphs.digest import Digest

HEX = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def test_a_digest_is_written_with_or_without_its_algorithm() -> None:
    assert Digest.parse(f"sha256:{HEX}") == Digest.parse(HEX) == Digest(HEX)
    assert str(Digest(HEX)) == f"sha256:{HEX}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX[:-1],
        HEX + "0",
        HEX.upper(),
        HEX[:-1] + "g",
        "../" + HEX[3:],
        HEX[:-1] + "\n",
        HEX + "\n",
        HEX[:-1] + "\N{ARABIC-INDIC DIGIT ONE}",
        "sha512:" + HEX,
        "sha256:sha256:" + HEX,
        "/" * 64,
        "\0" * 64,
    ],
)
def test_nothing_but_64_lowercase_digits_is_a_digest(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a SHA-256 digest"):
        Digest.parse(text)
