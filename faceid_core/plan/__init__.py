"""What a run would compute and why, how long that takes, and why a result was computed again."""
