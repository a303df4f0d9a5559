"""Who listens and shows: trackers, their training, baselines, evaluation."""
