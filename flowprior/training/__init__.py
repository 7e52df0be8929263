"""One training loop that knows nothing of methods: it asks the objective for losses and steps."""
