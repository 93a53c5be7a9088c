"""Which rows may be picked next: caps, quotas, balance and costs, asked by every greedy."""
