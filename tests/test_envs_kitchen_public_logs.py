"""The kitchen's recorded data as they are found in public: copies, cut-short logs, links, pages instead of files."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from envs.kitchen.logs import promised_subtasks
from envs.kitchen.readers import read_trajectories
from envs.trajectories import Trajectories, TrajectoryError
from tests.conftest import Bench
from tests.kitchen_files import episodes, log_of, refuse, write_flat, write_minari

PART = episodes(50, 40)
Joints = Sequence[tuple[int, float]]


def make_log(path: Path, seed: int, seconds: NDArray[Any] | None = None, joints: Joints = ()) -> Path:
    """A log of 401 records, 11 env_steps, with ``joints`` (index, value) at these values throughout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = np.arange(401) * 0.002 if seconds is None else seconds
    records = np.zeros((len(seconds), 1 + 30 + 29 + 9))
    records[:, 0] = seconds
    records[:, 1] = np.linspace(0, 0.01 * seed, len(seconds))
    for joint, value in joints:
        records[:, 1 + joint] = value
    name = b"demo\0"
    path.write_bytes(struct.pack("<7i", 30, 29, 9, 0, 0, 0, len(name)) + name + records.astype("<f4").tobytes())
    return path


# Values at which D4RL's script counts the subtasks as done, typed from its table.
MICROWAVE, LIGHT, SLIDE, HINGE = [(22, -0.75)], [(17, -0.69), (18, -0.05)], [(19, 0.37)], [(20, 0.0), (21, 1.45)]
BOTTOM = [(11, -0.88), (12, -0.01)]


def test_folder_names_of_the_published_logs() -> None:
    assert promised_subtasks("friday_microwave_topknob_bottomknob_hinge") == (
        "microwave", "top burner", "bottom burner", "hinge cabinet",
    )  # fmt: skip
    assert promised_subtasks("postcorl_kettle_switch") == ("kettle", "light switch")
    assert promised_subtasks("logs") == promised_subtasks("friday_a") == promised_subtasks("friday") == ()


def test_the_public_folder_as_those_who_cleaned_it_found_it(tmp_path: Path, bench: Bench) -> None:
    logs = tmp_path / "logs"
    four = [*MICROWAVE, *BOTTOM, *LIGHT, *SLIDE]
    folder = logs / "postcorl_microwave_bottomknob_switch_slide"
    good = make_log(folder / "kitchen_playdata_1.mjl", 1, joints=four)
    (folder / "kitchen_playdata_1(1).mjl").write_bytes(good.read_bytes())
    inside = logs / "friday_topknob_bottomknob_hinge_slide" / folder.name / "kitchen_playdata_1.mjl"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(good.read_bytes())
    cut = make_log(folder / "kitchen_playdata_2.mjl", 2, joints=four)
    cut.write_bytes(cut.read_bytes()[:-1000])
    seconds = np.arange(802) * 0.002
    seconds[401:] -= 401 * 0.002  # Jitters, is reset, and starts again.
    again = make_log(folder / "kitchen_playdata_3.mjl", 3, seconds=seconds, joints=four)
    lacking = make_log(folder / "kitchen_playdata_4.mjl", 4, joints=[*MICROWAVE, *BOTTOM, *SLIDE])
    wrong = make_log(folder / "kitchen_playdata_5.mjl", 5, joints=[*MICROWAVE, *BOTTOM, *LIGHT, *HINGE])
    companion = logs / "__MACOSX" / folder.name / "._kitchen_playdata_1.mjl"
    companion.parent.mkdir(parents=True)
    companion.write_bytes(bytes.fromhex("0005160700020000") + bytes(96))
    (folder / "._kitchen_playdata_5.mjl").write_bytes(companion.read_bytes())

    refused = bench("data", "import", "kitchen", logs, "-o", tmp_path / "a.hdf5")
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert f"{cut}: " in refused.err and "truncated" in refused.err
    assert "(2 of 5 logs are damaged); bench data import --skip-damaged" in refused.err

    outcome = bench("data", "import", "kitchen", logs, "-o", tmp_path / "a.hdf5", "--skip-damaged")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    for line in (
        f"left out {folder / 'kitchen_playdata_1(1).mjl'}: the same bytes as {good}",
        f"left out {inside}: the same bytes as {good}",
        f"left out {lacking}: never completes light switch, which its folder's name promises",
        f"{again}: time starts again 1 times; cut there",
        f"{wrong}: completes bottom burner, light switch, hinge cabinet, microwave, where its folder names microwave, "
        "bottom burner, light switch, slide cabinet",
        "cut at 1 jumps inside an episode; nothing was merged",
    ):
        assert line in lines
    assert any(line.startswith(f"left out {cut}: ") and line.endswith("truncated") for line in lines)
    # 1, 3 (twice ten rows) and 5: eleven frames each, of which the last has no action.
    assert Trajectories.load_hdf5(tmp_path / "a.hdf5").lengths.tolist() == [10, 10, 10, 10]


def test_where_all_logs_are_damaged_nothing_is_imported(tmp_path: Path) -> None:
    for seed in (1, 2):
        path = make_log(tmp_path / f"{seed}.mjl", seed)
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(TrajectoryError, match="2 of 2 logs are damaged"):
        read_trajectories(tmp_path, skip_damaged=True)


def test_linked_folders_are_read_and_loops_end(tmp_path: Path) -> None:
    make_log(tmp_path / "logs" / "here" / "a.mjl", 1)
    make_log(tmp_path / "elsewhere" / "b.mjl", 2)
    (tmp_path / "logs" / "there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "logs")
    assert read_trajectories(tmp_path / "logs")[0].lengths.tolist() == [10, 10]


@pytest.mark.parametrize("kind", ["third lost", "every twice", "forty percent twice", "shuffled"])
def test_records_that_were_lost_or_written_twice_are_refused(tmp_path: Path, kind: str) -> None:
    count = np.arange(4000)
    seconds = {
        "third lost": count[count % 3 != 2] * 0.002,
        "every twice": np.repeat(count[:2000], 2) * 0.002,
        "forty percent twice": np.sort(np.concatenate([count[:2400], count[400:2000]])) * 0.002,
        "shuffled": np.random.default_rng(0).permutation(count) * 0.002,
    }[kind]
    path = make_log(tmp_path / "a.mjl", 1, seconds=seconds)
    with pytest.raises(TrajectoryError, match=r"were lost or written twice|s apart"):
        read_trajectories(path)


def test_a_hiccup_of_the_recorder_is_no_damage(tmp_path: Path) -> None:
    seconds = np.arange(4000) * 0.002
    seconds[2000:] += 0.002
    assert read_trajectories(make_log(tmp_path / "a.mjl", 1, seconds=seconds))[0].lengths.tolist() == [99]


def test_episodes_that_a_minari_file_promises_and_lacks_are_named(tmp_path: Path) -> None:
    path = write_minari(tmp_path / "main_data.hdf5", episodes(20, 20, 20, 20))
    with h5py.File(path, "a") as file:
        file.attrs["total_episodes"] = 6
        del file["episode_1"]
    read, report = read_trajectories(path)
    assert read.lengths.tolist() == [19, 19, 19]
    assert report.lines()[-1] == "3 episodes are missing from the file (1, 4, 5): it holds 3 of 6"


PAGE = b"\n <!DOCTYPE html><html><head><title>404</title></head></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 31415926\n"


@pytest.mark.parametrize(("content", "words"), [(PAGE, "a web page, not data"), (POINTER, "git lfs pull fetches it")])
@pytest.mark.parametrize("name", ["data.hdf5", "data.npz", "data.mjl"])
def test_what_stands_in_for_a_file_is_recognised(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refuse(path, words)
    with pytest.raises(TrajectoryError, match=words):
        Trajectories.load_hdf5(path)


def test_marks_that_are_no_marks_are_refused(tmp_path: Path) -> None:
    terminals = np.zeros(90, np.float32)
    terminals[5] = np.nan
    refuse(write_flat(tmp_path / "nan.hdf5", PART, terminals=terminals), "terminals hold NaN")


def test_rows_that_lie_in_another_file_are_refused(tmp_path: Path) -> None:
    """A moved source reads as zeros; external storage reads whatever file it names; links likewise."""
    source = write_flat(tmp_path / "source.hdf5", PART, timeouts=np.zeros(90, bool))
    virtual, external, linked = (tmp_path / f"{name}.hdf5" for name in ("virtual", "external", "linked"))
    keys = ("observations", "actions", "terminals", "timeouts")
    with h5py.File(source) as file:
        shapes = {key: (file[key].shape, file[key].dtype) for key in keys}
    with h5py.File(virtual, "w") as file:
        for key, (shape, dtype) in shapes.items():
            layout = h5py.VirtualLayout(shape, dtype)
            layout[:] = h5py.VirtualSource("gone.hdf5", key, shape)
            file.create_virtual_dataset(key, layout)
    (tmp_path / "secret.bin").write_bytes(bytes(90 * 60 * 4))
    with h5py.File(external, "w") as file:
        for key, (shape, dtype) in shapes.items():
            size = int(np.prod(shape)) * dtype.itemsize
            file.create_dataset(key, shape, dtype, external=[(str(tmp_path / "secret.bin"), 0, size)])
    with h5py.File(linked, "w") as file:
        for key in shapes:
            file[key] = h5py.ExternalLink(str(source), key)
    for path, words in ((virtual, "is virtual"), (external, "has external storage"), (linked, "is a link to another")):
        refuse(path, words)
        with pytest.raises(TrajectoryError, match=words):
            Trajectories.load_hdf5(path)


def test_minari_episodes_in_other_files_are_refused(tmp_path: Path) -> None:
    write_minari(tmp_path / "more.hdf5", episodes(20))
    with h5py.File(tmp_path / "main_data.hdf5", "w") as file:
        file["episode_0"] = h5py.ExternalLink("more.hdf5", "episode_0")
    refuse(tmp_path / "main_data.hdf5", "episode_0 is a link to another place")


def test_arrays_that_are_said_to_be_terabytes_are_not_made_room_for(tmp_path: Path) -> None:
    path = tmp_path / "huge.hdf5"
    with h5py.File(path, "w") as file:
        for key, width in (("observations", 60), ("actions", 9)):
            file.create_dataset(key, (1 << 32, width), "f8", chunks=(64, width), compression="gzip")
        for key in ("terminals", "timeouts"):
            file.create_dataset(key, (1 << 32,), bool, chunks=(64,))
    refuse(path, "more than a file of")
    with pytest.raises(TrajectoryError, match="more than a file of"):
        Trajectories.load_hdf5(path)


def test_an_npz_that_is_said_to_be_terabytes_is_not_made_room_for(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 37, 30)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("observations", "actions", "episode_ends"):
            archive.writestr(f"{name}.npy", header.getvalue() + bytes(100))
    refuse(tmp_path / "a.npz", "more than such a file can hold")


def test_a_log_of_human_data_still_reads_in_a_named_folder(tmp_path: Path) -> None:
    """The shipped human episodes complete what they are about: microwave, kettle, light switch, slide cabinet."""
    observations, actions = episodes(212)[0]
    log_of(tmp_path / "friday_microwave_kettle_switch_slide" / "a.mjl", observations, actions)
    assert read_trajectories(tmp_path)[0].lengths.tolist() == [211]
