"""Tables and figures from records alone: nothing here was typed, and nothing needs torch."""
