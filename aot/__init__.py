"""Ahead-of-time compilation: the variant table -> cubins -> sources that the C library embeds. Needs the DSL, no GPU."""
