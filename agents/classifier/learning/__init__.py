"""Learning from outcomes of one's own traffic, beside the hot path: nothing here is waited for by a decision."""
