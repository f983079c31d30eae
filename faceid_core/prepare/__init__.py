"""Check photos before a run, without a store: one outcome per photo, a table, and a page of rejections."""
