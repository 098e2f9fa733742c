"""Task distributions: worlds, tasks and offline data. Importing this package registers the single environments."""

from __future__ import annotations

import gymnasium

# The environments truncate by themselves, as the batched worlds do, so no TimeLimit wrapper is asked for.
for _id, _entry_point in (
    ("simpl_bench/Maze-v0", "envs.maze.single:MazeEnv"),
    ("simpl_bench/ImageMaze-v0", "envs.image_maze.single:ImageMazeEnv"),
    ("simpl_bench/Kitchen-v0", "envs.kitchen.single:KitchenEnv"),
):
    if _id not in gymnasium.registry:
        gymnasium.register(id=_id, entry_point=_entry_point)
