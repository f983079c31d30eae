"""Where a person clicks to see a run's report."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from faceid_core.run.state import Run
from faceid_core.store.folder import folder_of


def report_link(run: Run, index: str) -> str:
    """The report's address for a browser.

    Args:
        night: whose report it is; `run.report_url` names the web server, if there is one.
        index: the report's name in the store.

    Returns:
        An address below `run.report_url`; else the file's; else, on AWS, the S3 console's, which asks whoever
        follows it to sign in; else the object's own.
    """
    base = run.config.run.report_url
    if base:
        return f"{base.rstrip('/')}/{quote(index)}"
    if not run.store.url.startswith("s3://"):
        return (folder_of(run.store.url).absolute() / index).as_uri()
    if not run.store.on_aws:
        return f"{run.store.url.rstrip('/')}/{index}"
    name = urlencode({"prefix": run.store.address.start + index})
    return f"https://s3.console.aws.amazon.com/s3/object/{run.store.bucket}?{name}"
