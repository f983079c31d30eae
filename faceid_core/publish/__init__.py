"""From a finished run to what is read: table rows, the catalog, report pages, and the outcome reports."""
