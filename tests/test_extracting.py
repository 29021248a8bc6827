"""`data frames`: the pictures of a video are its frames, every n-th, and a recipe finds them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segdistill.assemble import assemble
from segdistill.cli import main
from segdistill.extracting import extract
from segdistill.mistakes import Mistake
from small import small

FRAMES = 25


def grey(number: int) -> int:
    return 8 * number + 20


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for name in ("a", "deep/b"):
        file = folder / f"{name}.avi"
        file.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
        assert writer.isOpened()
        for number in range(FRAMES):
            writer.write(np.full((48, 64, 3), (0, 0, grey(number)), np.uint8))
        writer.release()
    return folder


def test_pictures_are_every_nth_frame(videos: Path, tmp_path: Path) -> None:
    done = extract(videos, tmp_path / "out", every=10)
    assert done == {videos / "a.avi": 3, videos / "deep" / "b.avi": 3}
    found = sorted(file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.*"))
    assert found == [f"{name}-{number:06d}.jpg" for name in ("a", "deep/b") for number in (0, 10, 20)]
    for number in (0, 10, 20):
        pixels = np.asarray(Image.open(tmp_path / "out" / f"a-{number:06d}.jpg"), np.int16)
        assert pixels.shape == (48, 64, 3)
        assert abs(pixels - (grey(number), 0, 0)).max() < 12  # red; JPEG's and the video's losses


def test_a_recipe_finds_what_the_command_wrote(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(Mistake, match=r"a\.avi is a video; `segdistill data frames"):
        assemble(small(f"data.frames.path={videos / 'a.avi'}"))
    with pytest.raises(SystemExit) as ended:
        main(["data", "frames", str(videos / "a.avi"), "--out", str(out), "--every", "5"])
    assert ended.value.code == 0
    assert f"5 pictures of 1 video in {out}" in capsys.readouterr().out
    frames = assemble(small(f"data.frames.path={out}")).frames
    assert frames is not None and len(frames) == 5 and frames.key(1) == "frames:a-000005"


def test_a_damaged_video_among_others_is_named(videos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (videos / "c.mp4").write_bytes(b"no video")
    assert list(extract(videos, tmp_path / "out")) == [videos / "a.avi", videos / "deep" / "b.avi"]
    assert f"segdistill: {videos / 'c.mp4'} left out: not a video" in capfd.readouterr().err


def test_what_is_no_video_is_one_sentence(tmp_path: Path) -> None:
    damaged, text = tmp_path / "a.mp4", tmp_path / "a.txt"
    for file in (damaged, text):
        file.write_bytes(b"no video")
    for path, said in (
        (tmp_path / "gone.mp4", "no such file"),
        (text, "not a video; expected"),
        (damaged, "not a video that OpenCV reads"),
    ):
        with pytest.raises(Mistake, match=said):
            extract(path, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Mistake, match="there is no video below it"):
        extract(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()
