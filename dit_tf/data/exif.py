"""Which way up an image is: the orientation that cameras write beside it (Exif 2.3, tag 0x0112), inside the tf.data
graph."""

import tensorflow as tf

_HEAD = 2**14  # bytes in which it is looked for: it stands before all that is long
_MOST_ENTRIES = 64  # of the first directory
_MARKS = (b"Exif\x00\x00", b"eXIf")  # of JPEG's segment and of PNG's chunk; what follows is laid out as a TIFF file


def orientation(encoded):
    """Bytes of a JPEG or PNG file (scalar string) -> 1 to 8 (int32); 1, as it is stored, where nothing is said."""
    head = tf.io.decode_raw(tf.strings.substr(encoded, 0, _HEAD), tf.uint8)
    start = tf.reduce_min([_behind(head, mark) for mark in _MARKS])
    head = tf.cast(tf.pad(head, [(0, 12)]), tf.int32)
    last = tf.size(head) - 1
    little = tf.gather(head, tf.minimum(start, last)) == ord("I")

    def number(place, length):
        """The unsigned number of so many bytes at each place; 0 where the file has ended."""
        at = place[..., None] + tf.range(length)
        digits = tf.where((at >= 0) & (at < last), tf.gather(head, tf.clip_by_value(at, 0, last)), 0)
        digits = tf.where(little, digits[..., ::-1], digits)
        return tf.reduce_sum(digits * [256**power for power in reversed(range(length))], axis=-1)

    directory = start + number(start + 4, 4)
    entries = directory + 2 + 12 * tf.range(_MOST_ENTRIES)
    there = (tf.range(_MOST_ENTRIES) < number(directory, 2)) & (number(entries, 2) == 0x0112) & (start <= last)
    found = tf.reduce_max(tf.where(there, number(entries + 8, 2), 0))
    return tf.where((found >= 1) & (found <= 8), found, 1)


def _behind(head, mark):
    """The place behind the first such bytes of uint8 (n,); beyond all of them where there are none."""
    count = tf.maximum(tf.size(head) - len(mark) + 1, 0)
    same = tf.reduce_all([head[i : i + count] == byte for i, byte in enumerate(mark)], axis=0)
    places = tf.concat([tf.where(same)[:, 0], [2**30]], axis=0)
    return tf.cast(places[0], tf.int32) + len(mark)


def upright(image, how):
    """(H, W, C) as it is stored, and its orientation -> as it is seen."""
    image = tf.cond(how >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    return _mirrored(_mirrored(image, 1, tf.reduce_any(how == (2, 3, 6, 7))), 0, tf.reduce_any(how == (3, 4, 7, 8)))


def _mirrored(image, axis, whether):
    return tf.cond(whether, lambda: tf.reverse(image, [axis]), lambda: image)
