"""The report: who the segments are, for people who read pages and not logs.

One HTML file that asks nobody for anything, and every figure of it as SVG and PNG. `facts` counts, `words` says it in plain words, `charts`
draws it, `sections` puts a page together, `page` writes it. Nothing here changes a model.

Law: equal inputs give equal bytes.
"""
