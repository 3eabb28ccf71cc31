"""Interventions that are learnt: scalings that move an answer, and the fewest heads whose removal turns a measure."""
