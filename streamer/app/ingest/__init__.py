"""Files of rows to events: the mapping's declaration, the rules that apply it, and the command's steps.

Law: rows read = rows used in events + rows rejected + rows skipped by a declared rule, and a mapping applied twice to the same file gives
the same events, ids included.
"""
