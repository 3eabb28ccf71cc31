"""When things are computed: what readers see, and the way back."""
