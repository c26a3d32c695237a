"""One outside system each, independent of each other."""
