"""What a run will compute before it computes anything: planned stage calls, estimates, and preflight checks."""
