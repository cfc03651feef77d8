"""How good is a distilled set: train on it, compare it with controls and published figures, with honest statistics."""
