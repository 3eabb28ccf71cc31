"""The built site: strict, every link leads somewhere, every picture says what it shows, nothing scrolls sideways."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest

from tests.chromium import PATIENCE_MS
from tests.docs.site import html_pages, read, site_in

pytestmark = pytest.mark.slow

# Sites that pages may point to. They are not asked: tests have no network.
ELSEWHERE = {
    "arxiv.org",
    "doi.org",
    "json-schema.org",
    "networkx.org",
    "numba.pydata.org",
    "transformer-circuits.pub",
    "www.sphinx-doc.org",
    "pydata-sphinx-theme.readthedocs.io",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return site_in(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def pages(site):
    return {page: read(page) for page in html_pages(site)}


def test_links_and_anchors_lead_somewhere(site, pages):
    wrong = []
    for page, found in pages.items():
        for link in found.links:
            url = urlsplit(link)
            if url.scheme in ("http", "https"):
                if url.netloc not in ELSEWHERE:
                    wrong.append(f"{page.relative_to(site)}: {link} is on no list of known sites")
                continue
            target = (page.parent / unquote(url.path)).resolve() if url.path else page
            if not target.exists():
                wrong.append(f"{page.relative_to(site)}: {link} is not there")
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].ids:
                wrong.append(f"{page.relative_to(site)}: {link} has no such anchor")
    assert wrong == []


def test_pictures_say_what_they_show(site, pages):
    silent = [
        f"{page.relative_to(site)}: {image.get('src', '')}"
        for page, found in pages.items()
        for image in found.images
        if len(image.get("alt", "").strip()) < 15 or image["alt"] in image.get("src", "")
    ]
    assert silent == []


def test_the_front_page_is_one_click_from_ones_own_model_and_data(site, pages):
    front = pages[site / "index.html"]
    assert any("own-model" in link for link in front.links)


@pytest.mark.browser
def test_nothing_scrolls_sideways_on_a_telephone(site, pages, browser):
    # The theme's scripts do not change widths, and cost most of the time.
    view = browser.new_page(viewport={"width": 400, "height": 800}, java_script_enabled=False)
    view.set_default_timeout(PATIENCE_MS)
    wide = []
    for page in pages:
        view.goto(page.as_uri())  # when loaded: widths are the style sheet's doing
        width = view.evaluate("document.documentElement.scrollWidth")
        if width > 400:
            wide.append(f"{page.relative_to(site)}: {width} pixels")
    view.close()
    assert wide == []
