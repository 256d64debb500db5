"""Who asks, whether they may, and how much: identities, Cedar, budgets."""
