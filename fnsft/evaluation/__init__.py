"""What a model knows and can do: one measurement a metric, with its standard error and n."""
