"""``explore.html``: an experiment's results as one page, from methods down to single neurons."""
