"""An open page of the explorer: what it shows, read off its elements, and what a user does with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


class Shown:
    """A page of the explorer in the browser.

    Attributes:
        page: Playwright's page.
        file: The HTML file.
        complaints: Everything that the console, the script or a dialog said.
        requests: Addresses that were asked for.
    """

    def __init__(self, page: Any, file: Path):
        self.page, self.file = page, file
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self) -> None:
        self.page.goto(self.file.as_uri())
        self.until("document.documentElement.dataset.ready === 'yes'")

    def until(self, condition: str) -> None:
        """Wait for a condition. Playwright's own way compiles text inside the page, which the page forbids."""
        for _ in range(600):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never came true: {condition}")

    def start_over(self) -> Shown:
        """Bring everything that a user can change back to where it was."""
        self.page.keyboard.press("Escape")
        self.page.click("#reset")
        if self.page.is_visible("#sets"):
            self.pick_set("a")
        return self

    # ---------------------------------------------------------------- what it shows

    def text(self, selector: str) -> str:
        return self.page.text_content(selector)

    def numbers(self) -> list[int]:
        """Edges shown and chosen, heads and MLPs that write them, as the heading tells."""
        return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", self.text("#counts"))]

    @property
    def n_edges(self) -> int:
        return self.numbers()[0]

    def drawn(self) -> int:
        """How many edges the graph itself draws, two frames from now: a busy machine draws late."""
        count = "explorer.graph.edges('[number >= 0]').filter(edge => edge.visible()).length"
        frames = f"done => requestAnimationFrame(() => requestAnimationFrame(() => done({count})))"
        return self.page.evaluate(f"() => new Promise({frames})")

    def box_counts(self, box: str) -> dict[str, int]:
        pairs = "all => all.map(x => [x.dataset.count, x.textContent])"
        counts = self.page.eval_on_selector_all(f"#{box} .count", pairs)
        return {name: int(text.replace(",", "")) for name, text in counts}

    def rows(self) -> list[list[str]]:
        """The table's rows, opened if need be."""
        if not self.page.evaluate("document.getElementById('table-box').open"):
            self.page.click("#table-box > summary")
            self.page.wait_for_selector("#table tbody tr")
        return self.page.eval_on_selector_all(
            "#table tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
        )

    def strongest_path(self) -> list[str]:
        return self.page.eval_on_selector_all("#path button", "all => all.map(button => button.textContent)")

    def variable(self, name: str) -> str:
        return self.page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")

    # ---------------------------------------------------------------- what a user does

    def place_of(self, name: str) -> tuple[float, float]:
        """Where a node is on the screen."""
        find = "explorer.graph.nodes().filter(node => node.data('full') === name)[0].renderedPosition()"
        place = self.page.evaluate(f"name => {find}", name)
        box = self.page.locator("#graph").bounding_box()
        return box["x"] + place["x"], box["y"] + place["y"]

    def click_node(self, name: str) -> None:
        self.page.mouse.click(*self.place_of(name))
        self.until(f"document.querySelector('#selection h2')?.textContent === '{name}'")

    def choose(self, selector: str, value: object) -> None:
        self.page.select_option(selector, str(value))

    def pick_set(self, name: str) -> None:
        self.page.check(f'#sets input[value="{name}"]', force=True)

    def search(self, text: str) -> None:
        self.page.fill("#query", text)

    def found(self) -> list[str]:
        return self.page.evaluate("explorer.graph.nodes('.match').map(node => node.data('full'))")
