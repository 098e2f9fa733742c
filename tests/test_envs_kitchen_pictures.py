"""Pictures of the kitchen: read back and looked at as numbers, on recorded human episodes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import imageio.v2 as imageio
import numpy as np
import pytest
from numpy.typing import NDArray

from envs import gl
from envs.core import PictureError
from envs.kitchen import pictures, renderer
from envs.kitchen.physics import INITIAL_POSITIONS
from envs.kitchen.renderer import EPISODE_RENDERER, FRAME_PIXELS, KitchenRenderer, draw_contact_sheet, write_video
from envs.kitchen.subtasks import SUBTASK_NAMES
from envs.registry import task_distribution
from envs.trajectories import Trajectories
from tests.conftest import ROOT, Bench
from tests.kitchen_helpers import HUMAN_ORDER, human_episodes, positions_with, sequence

HUMAN_TASK = sequence(*HUMAN_ORDER)
needs_gl = pytest.mark.skipif(gl.why_no_gl() is not None, reason=str(gl.why_no_gl()))


def human(episode: int) -> NDArray[np.float32]:
    return human_episodes().positions[episode].astype(np.float32)


def assert_is_a_picture(image: NDArray[np.uint8]) -> None:
    """Neither blank nor noise: many colours, and neighbouring pixels mostly alike."""
    assert image.std() > 20
    assert np.abs(np.diff(image[..., 0].astype(int), axis=1)).mean() < 20


def read_video(path: Path) -> tuple[NDArray[np.uint8], float]:
    """(frames (T, H, W, 3), seconds it lasts)."""
    if path.suffix == ".gif":
        with imageio.get_reader(path) as reader:
            frames = np.stack([frame[..., :3] for frame in reader])
            return frames, len(frames) * reader.get_meta_data()["duration"] / 1000
    import imageio_ffmpeg

    _, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-pix_fmt", "rgb24"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-"], check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, FRAME_PIXELS + renderer.CAPTION_PIXELS, FRAME_PIXELS, 3), seconds


# -- what the charts are made of ---------------------------------------------------------------


def test_completions_of_a_human_episode_are_in_the_recorded_order() -> None:
    for episode in range(len(human_episodes().positions)):
        order = pictures.completion_order(human(episode))
        assert tuple(SUBTASK_NAMES[index] for index in order) == HUMAN_ORDER


def test_first_completions_are_the_first_observation_at_the_goal() -> None:
    away, kettle, both = positions_with(), positions_with("kettle"), positions_with("kettle", "microwave")
    first = pictures.first_completions(np.array([away, kettle, away, both, both]))
    expected = {"kettle": 1, "microwave": 3}
    assert first.tolist() == [expected.get(name, pictures.NEVER) for name in SUBTASK_NAMES]


@pytest.mark.parametrize("tasks", [[], [HUMAN_TASK] * 5], ids=["without tasks", "with tasks"])
def test_progress_is_drawn(tasks: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr(
        pictures, "save_figure", lambda figure, path: (titles.append(figure.get_suptitle()), figure.savefig(path))
    )
    pictures.draw_progress([human(index) for index in range(5)], tasks, tmp_path / "progress.png", "Human")
    assert_is_a_picture(imageio.imread(tmp_path / "progress.png")[..., :3])
    assert titles == ["Human: 4.00 subtasks per episode"]


def test_progress_of_unpaired_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 episodes and 1 tasks"):
        pictures.draw_progress([human(0)] * 2, [HUMAN_TASK], tmp_path / "progress.png", "Human")


def test_coverage_counts_what_follows_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrices: list[NDArray[np.int64]] = []
    monkeypatch.setattr(pictures, "_draw_follows", lambda axes, follows: matrices.append(follows))
    episodes = [human(index) for index in range(3)]
    lengths = [len(episode) for episode in episodes]
    trajectories = Trajectories(np.concatenate(episodes), np.zeros((sum(lengths), 9), np.float32), np.cumsum(lengths))
    pictures.draw_data_coverage(trajectories, tmp_path / "coverage.png")
    assert_is_a_picture(imageio.imread(tmp_path / "coverage.png")[..., :3])
    (follows,) = matrices
    pairs = {("(start)", HUMAN_ORDER[0]), *pairwise(HUMAN_ORDER)}
    rows = ("(start)", *SUBTASK_NAMES)
    assert {(rows[row], SUBTASK_NAMES[column]) for row, column in np.argwhere(follows == 3)} == pairs
    assert follows.sum() == 3 * len(HUMAN_ORDER)


# -- frames ------------------------------------------------------------------------------------


@needs_gl
def test_a_frame_is_what_mujoco_s_own_renderer_draws(tmp_path: Path) -> None:
    """The same picture by another way: ``mujoco.Renderer`` with the camera of ``FrankaKitchen-v1``."""
    positions = human(0)[150]
    with KitchenRenderer() as ours:
        frame, other = ours.render(positions), ours.render(INITIAL_POSITIONS)
    program = f"""
import mujoco, numpy as np
from gymnasium_robotics.envs.franka_kitchen.franka_env import DEFAULT_CAMERA_CONFIG
from envs.kitchen.physics import load_model
model = load_model(visual=True)
model.vis.quality.offsamples = 0
data = mujoco.MjData(model)
data.qpos[:] = {positions.tolist()}
mujoco.mj_forward(model, data)
camera = mujoco.MjvCamera()
for name, value in DEFAULT_CAMERA_CONFIG.items():
    setattr(camera, name, value)
with mujoco.Renderer(model, {FRAME_PIXELS}, {FRAME_PIXELS}) as renderer:
    renderer.update_scene(data, camera)
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
    np.save({str(tmp_path / "reference.npy")!r}, renderer.render())
"""
    environment = {**os.environ, "MUJOCO_GL": gl.library_name()}
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=ROOT, env=environment)
    assert np.array_equal(frame, np.load(tmp_path / "reference.npy"))
    assert np.abs(frame.astype(int) - other).mean() > 1
    assert_is_a_picture(frame)


@needs_gl
def test_a_caption_stands_below_the_kitchen() -> None:
    with KitchenRenderer(96, 64) as plain, KitchenRenderer(96, 64, caption_pixels=32) as captioned:
        frame = captioned.render(INITIAL_POSITIONS, "a line")
        assert frame.shape == (96, 96, 3)
        assert np.abs(frame[:64].astype(int) - plain.render(INITIAL_POSITIONS)).mean() < 0.5  # edges of triangles
        assert frame[64:].max() > 200
        assert captioned.render(INITIAL_POSITIONS)[64:].max() == 0


@needs_gl
def test_a_contact_sheet_shows_the_first_and_the_last_observation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []
    titles: list[list[str]] = []
    render = KitchenRenderer.render
    monkeypatch.setattr(KitchenRenderer, "render", lambda self, q: (drawn.append(q[22]), render(self, q))[1])
    save = renderer.save_figure
    monkeypatch.setattr(
        renderer, "save_figure",
        lambda figure, path, **options: (
            titles.append([axes.get_title() for axes in figure.axes]), save(figure, path, **options)
        ),
    )  # fmt: skip
    draw_contact_sheet([human(0)], tmp_path / "sheet.png", "Human", frames=5)
    assert len(drawn) == 5
    assert (drawn[0], drawn[-1]) == (human(0)[0, 22], human(0)[-1, 22])
    assert titles[0][0] == "env_step 0\ndone:"
    assert " ".join(titles[0][4].split()) == f"env_step {len(human(0)) - 1} done: {', '.join(HUMAN_ORDER)}"
    assert_is_a_picture(imageio.imread(tmp_path / "sheet.png")[..., :3])


@needs_gl
@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_a_video_has_a_frame_per_observation_of_all_episodes(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"video{ending}"
    episodes = [human(0)[40:48], human(1)[:5]]
    if ending == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        with pytest.raises(PictureError, match=r"simpl-bench\[video\]"):
            EPISODE_RENDERER.render(episodes, [HUMAN_TASK] * 2, path, "Human")
        return
    EPISODE_RENDERER.render(episodes, [HUMAN_TASK] * 2, path, "Human")
    frames, seconds = read_video(path)
    assert len(frames) == 13
    assert seconds == pytest.approx(13 * 0.08)
    with KitchenRenderer() as plain:
        for frame, positions in ((frames[0], episodes[0][0]), (frames[-1], episodes[1][-1])):
            difference = frame[:FRAME_PIXELS].astype(int) - plain.render(positions)
            assert np.abs(difference).mean() < 8


def test_an_mp4_without_its_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PictureError, match=r"imageio-ffmpeg.*pip install 'simpl-bench\[video\]'"):
        write_video([human(0)], tmp_path / "video.mp4")
    assert not list(tmp_path.iterdir())


def test_another_ending_is_refused() -> None:
    assert EPISODE_RENDERER.why_not(".avi") == "no picture of an episode can end in '.avi'; valid: .mp4, .png, .gif"


# -- the graphics library ----------------------------------------------------------------------


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(gl.ctypes, "CDLL", nothing)


@pytest.mark.usefixtures("no_library")
def test_without_a_library_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    for draw in (draw_contact_sheet, write_video):
        with pytest.raises(PictureError) as caught:
            draw([human(0)], tmp_path / "picture.gif", "Human")
        text = str(caught.value)
        assert "apt-get install libegl1 libgl1 libgl1-mesa-dri (Debian), with MUJOCO_GL=egl" in text
        assert "apt-get install libosmesa6 (Debian), with MUJOCO_GL=osmesa" in text
        assert "\n" not in text


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("osmesa", "MUJOCO_GL=osmesa, but libOSMesa.so is not found: apt-get install libosmesa6"),
        ("EGL", "MUJOCO_GL=egl, but libEGL.so is not found: apt-get install libegl1"),
        ("bogus", "MUJOCO_GL is 'bogus'; valid: egl, osmesa, glfw, disable, or unset"),
    ],
)
def test_a_named_library_that_is_missing_stops_mujoco_in_one_line(
    value: str, expected: str, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    """MuJoCo fails to import then; ``bench`` says why before it tries."""
    monkeypatch.setenv("MUJOCO_GL", value)
    task_distribution.cache_clear()
    outcome = bench("run", "--algo", "spirl", "--env", "maze", "--preset", "smoke")
    task_distribution.cache_clear()
    assert outcome.code == 2
    assert outcome.err.startswith(f"bench: task distribution 'maze' cannot be loaded: {expected}")


def test_drawing_may_be_off_while_simulating(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disable")
    assert gl.why_mujoco_fails() is None
    assert str(gl.why_no_gl()).startswith("MUJOCO_GL=disable turns drawing off")


def test_a_library_without_a_driver_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        def __init__(self, width: int, height: int) -> None:
            raise AttributeError("'NoneType' object has no\nattribute 'glGetError'")

    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(gl, "_can_be_loaded", lambda name: True)
    monkeypatch.setattr(gl.importlib, "import_module", lambda name: SimpleNamespace(GLContext=Context))
    with pytest.raises(PictureError) as caught:
        gl.open_contexts(None, 64, 64)
    assert str(caught.value) == (
        "drawing with egl failed (AttributeError: 'NoneType' object has no attribute 'glGetError'); "
        "apt-get install libegl1 libgl1 libgl1-mesa-dri (Debian) brings what it needs; "
        "MUJOCO_GL=osmesa draws with another library"
    )
