"""Training of both stages: bars to windows, losses, and a loop that can be killed and resumed."""
