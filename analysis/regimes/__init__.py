"""Ways of asking for the same items, compared by the circuits that they use: tables, drawings and a report.

- `circuits`: circuits by regime and seed, their consensus, what is shared and what is private; a study's folder read;
- `overlaps`: within a regime against across regimes, and all three null models;
- `differences`: where regimes differ, by layer and kind, and module by module;
- `case_study`: the table of circuit × regime, for people, Markdown and LaTeX;
- `comparison`: all of it in one call; `report`: the same for people.

`docs/explanations/regimes.md` explains what the figures say and what they do not.
"""
