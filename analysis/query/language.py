"""The query language of `find`: patterns over node names, read into steps and arrows.

```
query  =  chain { "|" chain }                   either chain
chain  =  step { "->" step } | step { "<-" step }    all arrows of a chain point the same way
step   =  "**" | name { "," name }              any one of these; "**" is any number of modules, or none
name   =  [ "!" ] glob                          "!" is anything but
glob   =  letters, digits, ".", "+", "@" and ports "<q>", with
            "*"          any text, also none
            "?"          one character
            "{3..7}"     a number from 3 to 7
            "{q,k}"      one of these, ranges among them
```

Spaces mean nothing. A glob stands for whole names. Without a port it names a module and all that the module
reads through: `a5.h3` is the head as a writer, and as a reader any of its query, key and value. With a port,
such as `a5.*<q>`, it names readers. Heads that share a key and a value reader may be named for it: where
`a5.kv1` serves heads 4 to 7, `a5.h6<k>` is `a5.kv1<k>`.

Where edges are divided by spans of tokens, a glob with "@" fits names at a span, such as `a5.h3@end`, `a5.h3<k>@name`
or `*@name`; a glob without fits them at every span. A head at a span reads keys and values of spans before, so
`a5.h3@end` also fits its key at the name. The writer stands where the edge is: `*@name -> *` are all edges at the name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from circuitgraph.errors import ConfigurationError

_BRACES = r"\{[^{}]*\}"
_NAME = rf"(?:<(?:{_BRACES}|[^-<>=\s|,{{}}])*>|{_BRACES}|[^-<>=\s|,{{}}])+"
_TOKEN = re.compile(rf"\s*(?:(?P<arrow>->|<-)|(?P<mark>[|,])|(?P<name>{_NAME}))")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_WILDCARDS = frozenset("*?{")
_LONGEST_RANGE = 10_000


@dataclass(frozen=True, kw_only=True)
class Glob:
    """A pattern of names.

    Attributes:
        text: As it stands in the query, without "!".
        column: Where, from 1.
        negated: Whether "!" stands before it.
    """

    text: str
    column: int
    negated: bool

    @property
    def has_port(self) -> bool:
        """Whether it names readers rather than modules."""
        return "<" in self.text

    @property
    def is_literal(self) -> bool:
        """Whether it is one name, without wildcards."""
        return not _WILDCARDS & set(self.text)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One place in a chain: globs of which one has to match, or any number of modules.

    Attributes:
        globs: None of them for `**`.
        column: Where it begins in the query, from 1.
    """

    globs: tuple[Glob, ...]
    column: int

    @property
    def is_gap(self) -> bool:
        """Whether it is `**`."""
        return not self.globs


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Steps in the direction of the edges.

    Attributes:
        steps: At least one.
        backwards: Whether the query has them the other way around, with `<-`.
    """

    steps: tuple[Step, ...]
    backwards: bool


def query_error(query: str, column: int, problem: str) -> ConfigurationError:
    """An error that points at a column of the query, from 1.

    Examples:
        >>> print(query_error("a5 => m3", 4, "expected ->"))
        column 4: expected ->
          a5 => m3
             ^
    """
    line = re.sub(r"\s", " ", query)
    return ConfigurationError(f"column {column}: {problem}\n  {line}\n  {' ' * (column - 1)}^")


def parse_query(query: str) -> tuple[Chain, ...]:
    """Read a query.

    Args:
        query: The text.

    Returns:
        Its chains.

    Raises:
        ConfigurationError: The text is no query; the message says what was expected and points at the column.

    Examples:
        >>> (chain,) = parse_query("a5.*<q> <- m*, input")
        >>> [[glob.text for glob in step.globs] for step in chain.steps]
        [['m*', 'input'], ['a5.*<q>']]
        >>> parse_query("a5.* -> -> m3")
        Traceback (most recent call last):
        circuitgraph.errors.ConfigurationError: column 9: expected a name, got '->'
          a5.* -> -> m3
                  ^
    """
    return _Parser(query).chains()


def to_regex(query: str, glob: Glob) -> re.Pattern[str]:
    """What whole names a glob matches.

    Args:
        query: The query, for errors.
        glob: The glob.

    Raises:
        ConfigurationError: Braces are empty, or a range counts down or far.
    """
    parts = []
    for match in re.finditer(r"\{([^{}]*)\}|\*+|\?|[^{}*?]+", glob.text):
        text = match.group()
        if text[0] == "{":
            parts.append(_alternatives(query, glob.column + glob.negated + match.start(), match[1]))
        else:
            parts.append({"*": ".*", "?": "."}.get(text[0], re.escape(text)))
    return re.compile("".join(parts))


def _alternatives(query: str, column: int, text: str) -> str:
    choices = []
    for item in (part.strip() for part in text.split(",")):
        numbers = _RANGE.fullmatch(item)
        if not re.fullmatch(r"[A-Za-z0-9]+", item) and not numbers:
            raise query_error(query, column, f"expected {{q,k}} or {{3..7}}, got {{{text}}}")
        if numbers:
            first, last = int(numbers[1]), int(numbers[2])
            if not first <= last < first + _LONGEST_RANGE:
                raise query_error(query, column, f"expected a range from low to high, got {item}")
            choices += map(str, range(first, last + 1))
        else:
            choices.append(item)
    return f"(?:{'|'.join(choices)})"


class _Parser:
    """Tokens of a query, taken one by one."""

    def __init__(self, query: str):
        self.query = query
        self.tokens: list[tuple[str, str, int]] = []
        place = 0
        while query[place:].strip():
            match = _TOKEN.match(query, place)
            if match is None:
                column = place + len(query[place:]) - len(query[place:].lstrip()) + 1
                raise query_error(query, column, f"expected a name, -> or <-, got {query[column - 1]!r}")
            kind = str(match.lastgroup)
            self.tokens.append((kind, match[kind], match.start(kind) + 1))
            place = match.end()
        self.place = 0

    @property
    def next(self) -> tuple[str, str, int]:
        """Kind, text and column of the next token."""
        if self.place < len(self.tokens):
            return self.tokens[self.place]
        return "end", "the end of the query", len(self.query.rstrip()) + 1

    def take(self, *texts: str) -> str | None:
        """Move past the next token if it is one of these."""
        text = self.next[1]
        if text not in texts:
            return None
        self.place += 1
        return text

    def chains(self) -> tuple[Chain, ...]:
        found = [self.chain()]
        while self.take("|"):
            found.append(self.chain())
        if self.next[0] != "end":
            raise query_error(self.query, self.next[2], f"expected ->, <- or |, got {self.next[1]!r}")
        return tuple(found)

    def chain(self) -> Chain:
        steps, arrows = [self.step()], set()
        while True:
            column = self.next[2]
            arrow = self.take("->", "<-")
            if arrow is None:
                break
            arrows.add(arrow)
            if len(arrows) == 2:
                raise query_error(self.query, column, "expected all arrows of a chain to point the same way")
            steps.append(self.step())
        if not any(step.globs for step in steps):
            raise query_error(self.query, steps[0].column, "expected a name beside **")
        backwards = arrows == {"<-"}
        return Chain(steps=tuple(steps[::-1] if backwards else steps), backwards=backwards)

    def step(self) -> Step:
        column = self.next[2]
        if self.take("**"):
            return Step(globs=(), column=column)
        globs = [self.glob()]
        while self.take(","):
            globs.append(self.glob())
        return Step(globs=tuple(globs), column=column)

    def glob(self) -> Glob:
        kind, text, column = self.next
        if kind != "name":
            what = text if kind == "end" else repr(text)
            raise query_error(self.query, column, f"expected a name, got {what}")
        self.place += 1
        bare = text.removeprefix("!")
        if not re.fullmatch(r"[\w.+@*?{},]+(?:<[\w*?{},]+>(?:@[\w.+*?{},]+)?)?", bare.replace(" ", "")) or "**" in bare:
            problem = f"expected a name such as a3.h7, a3.*<q> or m{{3..7}}, got {text!r}"
            raise query_error(self.query, column, problem)
        return Glob(text=bare, column=column, negated=text.startswith("!"))
