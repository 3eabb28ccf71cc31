"""How much circuits share, whether that is more than chance, and families of such questions.

- `tables`: overlap and its tests as tidy tables, for two circuits or all pairs of many;
- `levels`: what is compared: edges, nodes, heads or layers;
- `hypergeometric`, `stratified`, `degree_preserving`: the null models; `tails`: what they answer;
- `families`: p-values adjusted for being many;
- `matrices`: a measure for all pairs as a square table, and clusters in it.

`docs/explanations/overlap.md` says what each null model means, and what it does not.
"""
