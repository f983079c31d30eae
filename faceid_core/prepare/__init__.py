"""Try photos without a store: one verdict per photo, a table, and a page of rejections."""
