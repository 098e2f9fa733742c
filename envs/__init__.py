"""Task distributions: worlds, tasks and offline data. Importing this package registers the single environments."""

from __future__ import annotations

import gymnasium

if "simpl_bench/Maze-v0" not in gymnasium.registry:
    # MazeEnv truncates by itself, as the batched world does, so no TimeLimit wrapper is asked for.
    gymnasium.register(id="simpl_bench/Maze-v0", entry_point="envs.maze.single:MazeEnv")
