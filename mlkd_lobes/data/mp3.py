"""MP3 files that do not say how long they are.

Most begin with a frame that holds their number of frames. Of the others, decoders
estimate the length from the file's size, which tags, pictures and a variable bit
rate distort: decoding stops too early, or the stated length is too large.
"""

import functools
import re

from mlkd_lobes.data.shards import open_file

MPEG_1 = 3
# After a seek the decoder needs samples before a part, or the part's start is wrong:
# at 8 kbit/s a frame of 576 may use what 85 frames left over (511 bytes at most).
LEAD = 57600
# kbit/s of layer III by index, for MPEG 1 and for MPEG 2 and 2.5.
KBPS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
KBPS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
RATES = (44100, 48000, 32000)
# By version; index 1 is reserved.
RATE_DIVISORS = {0: 4, 2: 2, 3: 1}


@functools.lru_cache(maxsize=1)
def with_frame_count(path, state):
    """An MP3 with its number of frames in front, and without tags.

    Arguments
    ---------
    path : str or mlkd_lobes.data.shards.Member
        The file.
    state : object
        Its size and time, so that a changed file is read again.

    Returns
    -------
    bytes or None
        None where nothing needs to be done: the file holds the number, or has
        no frames of MPEG layer III.
    """
    with open_file(path) as (file, _):
        start = 0
        while size := _tag_size(file.read(10)):
            start += size
            file.seek(start)
        file.seek(start)
        head = file.read(400)
        if not _frame_size(head[:4]) or _xing_count(head):
            return None
        content = head + file.read()
    frames = list(_frames(content))
    # The decoder does not read the count in a frame of the kind VBRI.
    if b"VBRI" in head or _xing_count(head) == 0:
        frames = frames[1:]
    if not frames:
        return None
    header = content[frames[0].start : frames[0].start + 4]
    return _count_frame(header, len(frames)) + b"".join(
        content[frame] for frame in frames
    )


def _tag_size(start):
    """Bytes of the ID3 tag that begins so, or 0; they are given by 7 bits each."""
    if start[:3] != b"ID3":
        return 0
    size = 0
    for byte in start[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size


def _xing_count(head):
    """The number of frames in the first one, 0 if it is left out, or None."""
    found = re.search(rb"(?:Xing|Info)(....)(....)", head, re.DOTALL)
    if not found:
        return None
    flags, count = (int.from_bytes(part, "big") for part in found.groups())
    return count if flags & 1 else 0


def _frames(content):
    """Slices of the frames; what lies between them is skipped."""
    kind, start, expected = _kind(content, 0), 0, 0
    while start >= 0:
        end = start + _frame_size(content[start : start + 4])
        fits = start < end <= len(content) and _kind(content, start) == kind
        # One by itself may be a part of a picture.
        if fits and (start == expected or _kind(content, end) == kind):
            yield slice(start, end)
            start = expected = end
        else:
            start = content.find(b"\xff", start + 1)


def _kind(content, start):
    """Version, layer and rate, which all frames share."""
    _, second, third = content[start : start + 3].ljust(3, b"\0")
    return second & 0xFE, third & 0x0C


def _frame_size(header):
    """Bytes of the frame of layer III that a header begins, 0 if it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, bit_rate = header[1] >> 3 & 3, header[2] >> 4
    rate, padding = header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or not 0 < bit_rate < 15 or rate == 3:
        return 0
    kbps = (KBPS_1 if version == MPEG_1 else KBPS_2)[bit_rate]
    factor = 144000 if version == MPEG_1 else 72000
    return factor * kbps // (RATES[rate] // RATE_DIVISORS[version]) + padding


def _count_frame(header, n_frames):
    """A silent frame that holds the number of those that follow."""
    version, mono = header[1] >> 3 & 3, header[3] >> 6 == 3
    # Without checksum and padding, of a bit rate that leaves enough room.
    header = bytes(
        [header[0], header[1] | 1, 0x90 | header[2] & 0x0C, header[3]]
    )
    side = (17 if mono else 32) if version == MPEG_1 else (9 if mono else 17)
    count = b"Xing" + (1).to_bytes(4, "big") + n_frames.to_bytes(4, "big")
    frame = header + bytes(side) + count
    return frame + bytes(_frame_size(header) - len(frame))
