"""A synthetic world of people, sums and functions, small enough to pretrain on in minutes."""
