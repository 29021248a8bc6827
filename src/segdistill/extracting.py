"""`data frames`: pictures out of videos, every n-th frame, where `data.frames.path` looks for images.

A run does not read videos itself: to reach a frame a decoder goes through those before it, and decoders differ in bits.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from segdistill.data import watched
from segdistill.frames import VIDEOS, is_video, videos_below
from segdistill.mistakes import Mistake, one_of
from segdistill.run import write_bytes

QUALITY = 95
"""Of the JPEG files: what a video lost is more."""
UNREAD = "not a video that OpenCV reads, or one without a frame"


def extract(video: Path, out: Path, every: int = 30) -> dict[Path, int]:
    """Frames 0, `every`, 2 · `every`, … of a video, or of every video below a folder, as JPEG files.

    Args:
        out: the folder written: `<path of the video without its ending>-<frame>.jpg`; what has such a name is replaced.

    Returns:
        How many pictures of each video.

    Raises:
        Mistake: there is no video, or none of which anything can be read; some of which nothing can are told.
    """
    if every < 1:
        raise Mistake(f"--every {every}: expected 1 or more")
    home = video if video.is_dir() else video.parent
    files = sorted(videos_below(video)) if video.is_dir() else [video] if is_video(video) else []
    if not files:
        what = "there is no video below it" if video.is_dir() else "not a video" if video.exists() else "no such file"
        raise Mistake(f"{video}: {what}; expected a file, or a folder of files, of {one_of(sorted(VIDEOS))}")
    done: dict[Path, int] = {}
    for file in watched(files, "taking pictures", len(files)):
        stem = out / file.relative_to(home).with_suffix("")
        count = 0
        for number, pixels in _frames(file, every):
            write_bytes(stem.with_name(f"{stem.name}-{number:06d}.jpg"), _jpeg(pixels))
            count += 1
        if count:
            done[file] = count
        else:
            print(f"segdistill: {file} left out: {UNREAD}", file=sys.stderr)
    if not done:
        raise Mistake(f"{files[0]}: {UNREAD}")
    return done


def _frames(video: Path, every: int) -> Iterator[tuple[int, np.ndarray]]:
    """(number, BGR uint8 [H, W, 3]); those between are not converted."""
    capture = cv2.VideoCapture(str(video))
    try:
        number = 0
        while capture.grab():
            if number % every == 0:
                whole, pixels = capture.retrieve()
                if whole:
                    yield number, pixels
            number += 1
    finally:
        capture.release()


def _jpeg(pixels: np.ndarray) -> bytes:
    done, content = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return content.tobytes()
