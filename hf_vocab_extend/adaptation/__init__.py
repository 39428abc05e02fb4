"""From an initialised model to an adapted one: staged training on the user's own Trainer, measures, checkpoints."""
