"""The Hugging Face hub: the only place that knows tokens and speaks to a network."""
