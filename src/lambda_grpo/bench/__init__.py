"""Speed, as ratios against a peer."""
