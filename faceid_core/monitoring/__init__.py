"""What monitoring sees of a run: Prometheus metrics, and where they are offered. No metric names a person."""
