"""Statistics of episode rows: scores, aggregates, intervals, tests, how many seeds are enough.

Definitions are those of Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS
2021, arXiv:2108.13264) and of their library rliable; the resampling is vectorised and seeded. Only numpy and scipy.

    episodes.py     episode rows -> returns (S, N, E) of each algorithm; what was left out, and why
    scores.py       returns -> scores (S, N) in a window of episodes; gaps shown
    aggregates.py   IQM, median, mean, optimality gap with intervals
    bootstrap.py    the stratified bootstrap
    improvement.py  probability of improvement, performance profiles
    curves.py       sample-efficiency curves, area under the curve, episodes to a threshold
    permutation.py  p-values, Holm's correction
    comparison.py   two algorithms: all of the above, and a verdict in words
    power.py        how many seeds a difference needs
    coverage.py     how often the intervals hold the truth (simulated)

Axes: R replicate, S seed (a run), N task, E episode, P point of a curve. Absent scores are NaN, and never silently so:
a run with a failure or a NaN of its own does not come this far.
"""
