"""Ahead-of-time compilation: variant table -> cubins -> sources that the C library embeds. Needs the DSL, no GPU."""
