"""Paper cards and citations."""

from __future__ import annotations

import pytest

import driftwell as dw
from driftwell.core.errors import InvalidInput
from driftwell.core.papers import Paper, cite, papers_of

ONE = Paper("a2020b", "On b", "A, B.", 2020, arxiv="2001.00001")
TWO = Paper("c2021d", "On d", "C, D. and E, F.", 2021, venue="J. of d", doi="10.1/2")
MANY = Paper("g2022h", "On h", "G, H. and I, J. and K, L.", 2022, arxiv="2201.00001")


class Thing:
    papers = (ONE, TWO)


class Single:
    papers = ONE


def test_reference_is_one_line():
    assert ONE.reference == "A, On b, 2020, arXiv:2001.00001"
    assert TWO.reference == "C and E, On d, 2021, J. of d"
    assert MANY.reference == "G et al., On h, 2022, arXiv:2201.00001"


def test_bibtex_holds_what_is_known_and_nothing_empty():
    assert ONE.bibtex == (
        "@article{a2020b,\n"
        "  title = {{On b}},\n"
        "  author = {A, B.},\n"
        "  year = {2020},\n"
        "  eprint = {2001.00001},\n"
        "  archiveprefix = {arXiv}\n"
        "}"
    )
    assert "doi = {10.1/2}" in TWO.bibtex
    assert "eprint" not in TWO.bibtex


def test_cite_takes_cards_classes_and_objects_once_each():
    text = cite(Thing(), Thing, ONE, Single())
    assert text.count("@article{a2020b") == 1
    assert text.count("@article{c2021d") == 1


def test_papers_of_a_thing_without_any():
    assert papers_of(3) == ()
    with pytest.raises(InvalidInput, match="no paper card is attached to int"):
        cite(3)
    with pytest.raises(InvalidInput, match="no paper card is attached to nothing"):
        cite()


def test_the_library_cites_its_methods():
    text = cite(dw.Anderson(), dw.Implicit, dw.DormandPrince(), dw.SpeedEnergy)
    for key in ("walker2011", "bai2019deq", "dormand1980", "qiu2025"):
        assert "{" + key in text
