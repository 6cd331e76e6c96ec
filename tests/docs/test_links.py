"""Every page is found from the index, and every link leads somewhere."""

from __future__ import annotations

import pytest
from tests.docs import pages


def test_the_pages_are_found() -> None:
    assert {"README.md", "CHANGELOG.md", "docs/index.md", "docs/spec/mimi.md"} <= set(pages.PAGES)
    assert len(pages.PAGES) > 20


@pytest.mark.parametrize("page", pages.PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert pages.broken(page, (pages.ROOT / page).read_text(encoding="utf-8")) == []


def test_a_wrong_link_or_anchor_is_noticed() -> None:
    text = (
        "# Here\n[a](nothing.md) [b](index.md#no-such-heading) [c](#here) [d](#there)\n"
        "[e](https://example.com) `[f](code.md)`\n```\n[g](block.md)\n```\n[h](index.md#talk)\n"
    )
    assert pages.broken("docs/page.md", text) == [
        "nothing.md",
        "index.md#no-such-heading",
        "#there",
    ]


def test_the_index_links_every_page_itself() -> None:
    index = (pages.ROOT / "docs/index.md").read_text(encoding="utf-8")
    linked = {
        str(path.relative_to(pages.ROOT))
        for target in pages.links(index)
        if (path := (pages.ROOT / "docs" / target.partition("#")[0]).resolve()).exists()
    }
    assert set(pages.PAGES) - linked == {"docs/index.md"}


def test_everything_is_reached_from_the_front_page() -> None:
    assert set(pages.PAGES) <= pages.reachable("README.md")


def test_no_sentence_of_the_front_page_is_a_heap_of_links() -> None:
    text = (pages.ROOT / "README.md").read_text(encoding="utf-8")
    for sentence in pages.prose(text).replace("\n\n", ". ").replace("\n- ", ". ").split(". "):
        if "|" not in sentence:
            assert len(list(pages.links(sentence))) <= 2, sentence
