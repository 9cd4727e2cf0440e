"""The plot is drawn for one party and for thirty, for one month and for many."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from upeti.control.plots import plot_concentration
from upeti.core.errors import ConfigError
from upeti.money.concentration import Flow
from upeti.money.concentration_report import Report, make_report
from upeti.money.parties import bands


def report(names: int, months: int) -> Report:
    flows = [
        Flow(f"2026-{month + 1:02d}", {"parent": f"PT $ Company {name} Tbk"}, {"revenue": 10**24 // (name + 1) + month})
        for month in range(months)
        for name in range(names)
    ]
    return make_report("customers", "IDR", flows, ("parent",), bands=bands(), clauses=())


def texts(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    return ["".join(one.itertext()).strip() for one in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(("names", "months"), [(1, 1), (30, 1), (1, 3), (30, 12)])
def test_it_is_drawn(tmp_path: Path, names: int, months: int) -> None:
    path = tmp_path / "plot.svg"
    plot_concentration(report(names, months), path)
    found = texts(path)
    assert any("10 %" in text for text in found)
    assert any("HHI" in text for text in found)
    assert "PT $ Company 0 Tbk" in found
    shown = sum(text.startswith("PT $ Company") for text in found)
    assert shown == (1 if names == 1 else 15 if months == 1 else 7)
    assert any("others" in text for text in found) is (names > 1)
    first = path.read_bytes()
    plot_concentration(report(names, months), path)
    assert path.read_bytes() == first


def test_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    plot_concentration(report(3, 2), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"an \.svg or a \.png"):
        plot_concentration(report(3, 2), tmp_path / "plot.pdf")
    with pytest.raises(ConfigError, match="no shares to draw"):
        plot_concentration(report(0, 0), tmp_path / "plot.svg")
    with pytest.raises(ConfigError, match="cannot be written"):
        plot_concentration(report(3, 2), tmp_path / "missing" / "plot.svg")
