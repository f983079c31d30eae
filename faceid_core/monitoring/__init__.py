"""What monitoring sees of a run: Prometheus metrics, and where they are offered. No metric names a person."""

# A face is detected in a tenth of a second; a person is learned in minutes, or an hour on a CPU.
STAGE_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 3600)
