"""Thin Prefect tasks, and the Ray actor pool that they drive."""
