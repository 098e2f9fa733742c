"""An algorithm and a task distribution of a package of its own: CONTRIBUTING.md of simpl-bench walks through it."""
