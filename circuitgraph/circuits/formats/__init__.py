"""Files of other tools, both ways: one file a format, each with one declaration; `registry` lists them."""
