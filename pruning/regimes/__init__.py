"""Ways of asking for the same items, compared by the circuits that they use: training and measuring.

- `alignment`: whether the regimes ask for the same items, in the same splits;
- `folder`: where a study's files are, and what may be taken over from an earlier run;
- `training`: a circuit for every regime and seed;
- `derived`: intersection, union, differences, consensus and random circuits to measure beside them;
- `faithfulness`: every circuit on every regime's prompts;
- `study`: all of it in one call.

`docs/explanations/regimes.md` says what the figures mean; `analysis.compare_regimes` makes tables and pictures of them.
"""
